"""The machine: outages, running out of memory, distributed processes."""
