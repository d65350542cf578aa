"""Latents and text embeddings, computed once and kept in memory or on disk."""
