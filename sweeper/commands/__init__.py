"""The commands `sweeper.select` and `sweeper.report`."""
