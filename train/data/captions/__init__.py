"""Captions: their files, their checks, how they are sampled, and the trigger word."""
