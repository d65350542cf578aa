"""The terminal while a study runs: progress lines and the live table."""
