"""The drawn world: puppets, their images and captions."""
