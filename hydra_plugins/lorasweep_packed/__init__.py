"""Registers our launcher with Hydra, which accepts only classes of this package."""

from sweeper.hydra_launcher import PackedLauncher as _PackedLauncher


class PackedLauncher(_PackedLauncher):
    """See sweeper/hydra_launcher.py."""
