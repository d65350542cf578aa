"""The drawn world: puppets of which the whole truth is known, and a tiny base that learned them."""
