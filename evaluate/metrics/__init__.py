"""The scores, each a metric with an interval."""
