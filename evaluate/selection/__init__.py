"""Selects one checkpoint from many and explains the choice: pure functions of scorecards."""
