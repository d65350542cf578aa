"""kohya's own config files, read and translated into our settings."""
