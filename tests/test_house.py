"""The structure of the code: import arrows, sizes, names, and nothing that only one system has."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
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
VAGUE = {"utils", "util", "helpers", "common", "misc", "tools", "stuff", "core", "shared"}
LONGEST = 400
MOST_FILES = 14  # in a folder, its __init__.py included
# what is imported to check a command's settings, and what takes seconds to import
CHECKS = (
    "train.config.schema",
    "train.validation",
    "evaluate.config",
    "sweeper.config",
    "sweeper.reproduction.config",
    "sweeper.search.conditional_params",
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
    assert file.stem not in VAGUE
    assert file.parent.name not in VAGUE
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


def test_folders_have_few_files() -> None:
    files = [*FILES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "hydra_plugins").rglob("*.py")]
    counts = Counter(file.parent for file in files)
    crowded = {str(folder): count for folder, count in counts.items() if count > MOST_FILES}
    assert not crowded


def unit(module: str) -> str:
    """What an arrow between folders starts at or leads to: a folder; a package's own files stand
    for themselves."""
    folder = module.rpartition(".")[0]
    return folder if "." in folder else module


def folder_arrows() -> dict[str, set[str]]:
    """Which folder imports from which."""
    modules = {".".join(file.relative_to(ROOT).with_suffix("").parts) for file in FILES}
    arrows: dict[str, set[str]] = {}
    for file in FILES:
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        if file.stem == "__init__":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not node.module:
                continue
            named = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            for target in modules.intersection(named):
                if unit(target) != unit(module):
                    arrows.setdefault(unit(module), set()).add(unit(target))
    return arrows


def test_no_folders_import_each_other_in_a_circle() -> None:
    arrows = folder_arrows()
    assert len(arrows) > 20
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")
