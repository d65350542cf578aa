"""The command line: overrides, completion, one-line errors, signals."""
