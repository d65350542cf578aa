"""Features of images: CLIP embeddings, poses, head crops, colors."""
