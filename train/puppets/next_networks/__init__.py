"""The networks of the 64-pixel world and their training; they replace `networks`."""
