"""What networks read off pictures."""
