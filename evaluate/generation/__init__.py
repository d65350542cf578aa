"""Images that are generated for scoring: of checkpoints and of the base alone."""
