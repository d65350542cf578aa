"""What figures were made with: versions, commit, hardware."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "open_clip_torch",
    "torchmetrics",
    "bitsandbytes",
    "prodigyopt",
    "numpy",
    "optuna",
    "hydra-core",
    "mlflow",
)


def environment(device: torch.device) -> dict[str, str]:
    """The commit of this program, the versions of what it uses, and what it runs on."""
    return {
        "git.commit": _commit(),
        "version.python": platform.python_version(),
        **{f"version.{package}": _version(package) for package in PACKAGES},
        "hardware.device": (
            torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
        ),
        "hardware.threads": str(torch.get_num_threads()),
    }


def _commit() -> str:
    """The commit of this checkout, with a word where files differ from it."""
    folder = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    """The processor's name: bytes are the same on the same one."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
