"""`python -m train`: trains one LoRA, without scores. `python -m train --help` shows the settings."""

from __future__ import annotations
