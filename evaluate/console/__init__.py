"""The terminal: tables and progress."""
