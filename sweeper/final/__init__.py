"""The final of a study: holding it, reading its verdict, showing its course."""
