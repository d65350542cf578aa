"""How OpenMP's threads wait for each other."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ({}, {"GOMP_SPINCOUNT": "1000"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
    ],
)
def test_threads_spin_briefly_unless_the_user_decides(
    given: dict[str, str], used: dict[str, str]
) -> None:
    """It is set before torch is imported, which is when OpenMP reads it, by every package."""
    code = (
        "import os, sys, sweeper\n"
        "assert 'torch' not in sys.modules\n"
        f"print({{name: os.environ[name] for name in {VARIABLES} if name in os.environ}})"
    )
    environment = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env=environment | given,
    ).stdout  # fmt: skip
    assert output.strip() == str(used)
