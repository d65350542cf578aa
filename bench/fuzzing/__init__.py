"""Fuzzing: mutated files for every reader, and checks of what reading them does."""
