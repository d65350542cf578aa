"""Image files: headers, limits, decoding, buckets and crops."""
