"""The settings of a training run: schema, ranges, and the checks that need no model."""
