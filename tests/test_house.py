"""How the house is built: arrows, sizes, and nothing that only one system has."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BELOW = {
    "train": ("train",),
    "evaluate": ("train", "evaluate"),
    "sweeper": ("train", "evaluate", "sweeper"),
}
OURS = {"train", "evaluate", "sweeper", "bench", "tests"}
FILES = sorted(file for package in BELOW for file in (ROOT / package).rglob("*.py"))
POSIX = {"fcntl", "grp", "pwd", "resource", "termios", "tty", "pty", "syslog"}
POSIX_NAMES = {"fork", "getuid", "geteuid", "killpg", "setsid", "SIGKILL", "SIGHUP", "SIGUSR1"}
NAMES = {"utils", "helpers", "common", "misc"}
LONGEST = 400
# what is imported to check a command's settings, and what takes seconds to import
CHECKS = (
    "train.config",
    "train.checks",
    "evaluate.config",
    "sweeper.config",
    "sweeper.reproducing.config",
    "sweeper.proposing.conditions",
)
HEAVY = {
    "torch", "torchvision", "diffusers", "transformers", "accelerate", "mlflow", "optuna",
    "numpy", "scipy", "matplotlib", "pandas", "PIL",
}  # fmt: skip


def imports(tree: ast.AST) -> Iterator[tuple[str, ast.stmt]]:
    """The packages that are imported anywhere in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0], node


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_file_keeps_to_the_house(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    tree = ast.parse(text)
    package = file.relative_to(ROOT).parts[0]
    above = {name for name, _ in imports(tree) if name in OURS} - {*BELOW[package]}
    assert not above, f"{file} imports {above}, which is above it"
    assert text.count("\n") <= LONGEST
    assert file.stem not in NAMES
    assert file.parent.name not in NAMES
    sheltered = {node for part in ast.walk(tree) if isinstance(part, ast.Try) for node in part.body}
    foreign = [name for name, node in imports(tree) if name in POSIX and node not in sheltered]
    foreign += [
        n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr in POSIX_NAMES
    ]
    assert not foreign, f"{file} needs {foreign}, which Windows has not"


def test_settings_are_checked_without_anything_heavy() -> None:
    code = f"import sys, {', '.join(CHECKS)}; print(*sorted({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.split()
