"""Translates kohya's config files into our settings."""
