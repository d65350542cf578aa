"""The training images: found, checked, split, and put into batches."""
