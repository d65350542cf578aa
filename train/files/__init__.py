"""Files that others may have written: limits, permissions, and atomic writes."""
