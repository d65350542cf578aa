"""LoRA files -> scorecards."""
