"""Which settings to try next: search space, conditional parameters, samplers, pruners."""
