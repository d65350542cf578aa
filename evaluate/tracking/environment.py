"""The environment of a run: versions, commit, hardware, memory."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

try:
    import resource
except ImportError:  # Windows, where psutil knows the peak
    resource = None  # type: ignore[assignment]

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "peft",
    "safetensors",
    "open_clip_torch",
    "torchmetrics",
    "bitsandbytes",
    "prodigyopt",
    "dadaptation",
    "schedulefree",
    "numpy",
    "optuna",
    "hydra-core",
    "mlflow",
)


def environment(device: torch.device) -> dict[str, str]:
    """This program's commit, the versions of its dependencies, and the hardware."""
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
    """The commit of this checkout, marked if files differ from it."""
    folder = Path(__file__).parent
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return result.stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    """The processor's name: results are equal, to the byte, only on the same one."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def peak_memory(device: torch.device) -> float:
    """Peak memory in gigabytes: of the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if resource is None:
        return float(psutil.Process().memory_info().peak_wset) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
