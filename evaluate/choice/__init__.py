"""Which checkpoint is kept, and why."""
