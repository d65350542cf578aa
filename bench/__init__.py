"""Benchmarks that take minutes to hours: `python -m bench.NAME`; last results in results/."""
