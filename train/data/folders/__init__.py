"""Where images come from: folder layouts and dataset TOML files."""
