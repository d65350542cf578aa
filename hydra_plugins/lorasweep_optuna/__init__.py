"""The door through which Hydra finds our sweeper: it accepts only classes of hydra_plugins."""

from sweeper.search import OptunaSweeper as _OptunaSweeper


class OptunaSweeper(_OptunaSweeper):
    """See sweeper/search.py."""
