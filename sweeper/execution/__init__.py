"""Runs trials: in packs, with early stopping, within a budget and a disk."""
