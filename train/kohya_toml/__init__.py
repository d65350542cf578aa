"""kohya's TOML files, parsed leniently into typed values."""
