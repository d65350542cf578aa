"""Runs trials: in packs, with early stopping, within a budget and the space on disk."""
