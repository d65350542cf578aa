"""Continuing an interrupted run: its saved state, its last checkpoint, its files."""
