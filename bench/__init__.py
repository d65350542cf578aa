"""Long proofs, each with one command: `python -m bench.NAME`; their last results in results/."""
