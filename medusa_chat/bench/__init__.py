"""Measuring: the same prompts plainly and with drafts, in one run, on one engine."""
