"""The record of a trial: on disk, and mirrored to MLflow."""
