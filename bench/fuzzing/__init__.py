"""Mutated files for every reader, and a watch over what becomes of them."""
