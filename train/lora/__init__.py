"""LoRA adapters: their matrices, their injection into a base, and their files."""
