"""The drawn world of puppets, and the tiny base model that was trained on it."""
