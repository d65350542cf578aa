"""Pictures -> LoRA files. Knows nothing of scores, sweeps or MLflow."""
