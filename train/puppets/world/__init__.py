"""The drawn world: puppets with faces, outfits, and accessories; toys; and drawing styles."""
