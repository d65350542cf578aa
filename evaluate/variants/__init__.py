"""Candidates that need no training: other strengths, and averages of checkpoints."""
