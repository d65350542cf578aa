"""Structure of the code: directions of imports, sizes, names, and no POSIX-only modules."""

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
ALLOWED_IMPORTS = {
    "train": ("train",),
    "evaluate": ("train", "evaluate"),
    "sweeper": ("train", "evaluate", "sweeper"),
}
PROJECT_PACKAGES = {"train", "evaluate", "sweeper", "bench", "tests"}
FILES = sorted(file for package in ALLOWED_IMPORTS for file in (ROOT / package).rglob("*.py"))
POSIX = {"fcntl", "grp", "pwd", "resource", "termios", "tty", "pty", "syslog"}
POSIX_NAMES = {"fork", "getuid", "geteuid", "killpg", "setsid", "SIGKILL", "SIGHUP", "SIGUSR1"}
VAGUE_NAMES = {"utils", "util", "helpers", "common", "misc", "tools", "stuff", "core", "shared"}
MAX_LINES = 400
MAX_FILES = 14  # in a folder, with its __init__.py
# modules that check the settings of commands, and libraries that take seconds to import
SETTINGS_MODULES = (
    "train.config.schema",
    "train.config_checks",
    "evaluate.config",
    "sweeper.config",
    "sweeper.reproduction.config",
    "sweeper.search.conditional_params",
)
HEAVY_LIBRARIES = {
    "torch", "torchvision", "diffusers", "transformers", "accelerate", "mlflow", "optuna",
    "numpy", "scipy", "matplotlib", "pandas", "PIL",
}  # fmt: skip


def iterate_imports(tree: ast.AST) -> Iterator[tuple[str, ast.stmt]]:
    """Yields the imported top-level packages of a file, and their statements."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0], node


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_file_follows_the_rules(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    tree = ast.parse(text)
    package = file.relative_to(ROOT).parts[0]
    forbidden = {name for name, _ in iterate_imports(tree) if name in PROJECT_PACKAGES} - {
        *ALLOWED_IMPORTS[package]
    }
    assert not forbidden, f"{file} must not import {forbidden}"
    assert text.count("\n") <= MAX_LINES
    assert file.stem not in VAGUE_NAMES
    assert file.parent.name not in VAGUE_NAMES
    in_try_blocks = {
        node for part in ast.walk(tree) if isinstance(part, ast.Try) for node in part.body
    }
    posix_only = [
        name for name, node in iterate_imports(tree) if name in POSIX and node not in in_try_blocks
    ]
    posix_only += [
        n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr in POSIX_NAMES
    ]
    assert not posix_only, f"{file} needs {posix_only}, which Windows does not have"


def test_checking_settings_imports_no_heavy_library() -> None:
    code = f"import sys, {', '.join(SETTINGS_MODULES)}\n"
    code += f"print(*sorted({HEAVY_LIBRARIES!r} & sys.modules.keys()))"
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not process.stdout.split()


def test_folders_have_few_files() -> None:
    files = [*FILES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "hydra_plugins").rglob("*.py")]
    counts = Counter(file.parent for file in files)
    crowded = {str(folder): count for folder, count in counts.items() if count > MAX_FILES}
    assert not crowded


def folder_of(module: str) -> str:
    """Returns the folder of a module; modules directly in a package stand for themselves."""
    folder = module.rpartition(".")[0]
    return folder if "." in folder else module


def folder_imports() -> dict[str, set[str]]:
    """Returns for each folder the folders from which it imports."""
    modules = {".".join(file.relative_to(ROOT).with_suffix("").parts) for file in FILES}
    imports_by_folder: dict[str, set[str]] = {}
    for file in FILES:
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        if file.stem == "__init__":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not node.module:
                continue
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            for target in modules.intersection(names):
                if folder_of(target) != folder_of(module):
                    imports_by_folder.setdefault(folder_of(module), set()).add(folder_of(target))
    return imports_by_folder


def test_folders_have_no_import_cycle() -> None:
    imports_by_folder = folder_imports()
    assert len(imports_by_folder) > 20
    try:
        TopologicalSorter(imports_by_folder).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")
