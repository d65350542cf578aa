"""Images that are generated for scoring, from checkpoints and from the base alone."""
