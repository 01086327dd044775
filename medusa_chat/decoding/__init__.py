"""Draft, verify, accept, commit: the loop and its pure pieces."""
