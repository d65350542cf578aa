"""The scores, each a torchmetrics `Metric` with an interval."""
