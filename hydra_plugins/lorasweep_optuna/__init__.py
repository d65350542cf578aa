"""Registers our sweeper with Hydra, which accepts only classes of this package."""

from sweeper.hydra_sweeper import OptunaSweeper as _OptunaSweeper


class OptunaSweeper(_OptunaSweeper):
    """See sweeper/hydra_sweeper.py."""
