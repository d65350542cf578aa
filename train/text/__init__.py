"""Text from outside: decoded, made printable, quoted for a shell, written to the terminal."""
