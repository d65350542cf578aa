"""The Optuna study that workers share: its storage, its trials, and who holds which."""
