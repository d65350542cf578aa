"""What bench.trainer compares: each a process of its own, with imports of its own."""
