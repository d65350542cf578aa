"""A run trained again: what it was, what differs by now, how near it comes."""
