"""The drawn world at 64 pixels, which replaces `train.puppets.world` once its networks are trained.

Puppets with faces, outfits, and accessories; toys without a body; and drawing styles.
"""
