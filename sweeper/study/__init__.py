"""The Optuna study that workers share: its storage, its trials, and their leases."""
