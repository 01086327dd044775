"""The sub-commands, one module each. None imports anything heavy at the top, so that --help is instant."""
