"""Retrains a logged run and compares the two."""
