"""What to try next: the search space, its conditions, the samplers."""
