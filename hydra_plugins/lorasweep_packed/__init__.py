"""The door through which Hydra finds our launcher: it accepts only classes of hydra_plugins."""

from sweeper.launcher import PackedLauncher as _PackedLauncher


class PackedLauncher(_PackedLauncher):
    """See sweeper/launcher.py."""
