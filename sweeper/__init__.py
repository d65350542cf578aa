"""Searches, schedules, records, selects, reports, reproduces."""
