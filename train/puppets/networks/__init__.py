"""The networks of the drawn world and their pretraining."""
