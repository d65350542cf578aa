"""What is written down while it happens: on disk, in MLflow, on the terminal."""
