"""What a study comes to: the pick, the ranking, the pictures."""
