"""The LoRA files to score: found, ordered by epoch, checked."""
