"""The training loop: trainer, runs, schedules, optimizers, loss."""
