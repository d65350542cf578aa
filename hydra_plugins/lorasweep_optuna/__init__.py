"""The door through which Hydra finds our sweeper: it accepts only classes of hydra_plugins."""

from sweeper.hydra_sweeper import OptunaSweeper as _OptunaSweeper


class OptunaSweeper(_OptunaSweeper):
    """See sweeper/hydra_sweeper.py."""
