"""MLflow: its store, its address, its artifacts, and the environment of a run."""
