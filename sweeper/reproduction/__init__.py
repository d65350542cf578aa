"""Trains a logged run again and compares the two."""
