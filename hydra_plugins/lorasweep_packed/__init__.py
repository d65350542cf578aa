"""The door through which Hydra finds our launcher: it accepts only classes of hydra_plugins."""

from sweeper.hydra_launcher import PackedLauncher as _PackedLauncher


class PackedLauncher(_PackedLauncher):
    """See sweeper/execution/hydra_launcher.py."""
