"""Mutates folders: links, pipes and devices in place of files, and hostile file names."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from random import Random

from bench.fuzzing.values import OUTSIDE

HOSTILE_NAMES = (
    "\x1b[31mred",
    "\u202egnp.a",
    "[v2]",
    "[/x]",
    "a" * 200,
    "-m",
    "a\nb",
    "$(touch pwned)",
    "'; touch x",
    "<b>x",
    "con",
    "...",
    " x ",
    "{x}",
    "%s",
    "99999999999999999999",
    "1000000",
    "\udcff\udcfe",
    "é",
    "${a}",
    "e\u0301",
    "0001x",
    "12345678",
    "#",
    "*",
    "?",
)


def replace_file(file: Path, outside: Path, random: Random) -> None:
    """Replaces a file by a link, pipe, folder or huge file with the same name, or removes it."""
    pick = random.choice(
        (
            "secret",
            "picture",
            "fifo",
            "zero",
            "folder",
            "nowhere",
            "loop",
            "sparse",
            "gone",
            "proc",
            "up",
            "tty",
        )
    )
    file.unlink()
    if pick == "fifo":
        os.mkfifo(file)
    elif pick == "folder":
        file.mkdir()
    elif pick == "sparse":
        with file.open("wb") as stream:
            stream.truncate(3 << 30)
    elif pick != "gone":
        target = {
            "secret": outside / "secret.txt",
            "picture": outside / "pictures" / "picture.png",
            "zero": Path("/dev/zero"),
            "nowhere": outside / "nowhere",
            "loop": file,
            "proc": Path("/proc/self/environ"),
            "up": Path(".."),
            "tty": Path("/dev/tty"),
        }[pick]
        file.symlink_to(target)


def add_neighbor(file: Path, case: Path, outside: Path, random: Random) -> None:
    """Adds a copy, pipe or link next to a file or its folder, or renames the file."""
    name, pick = random.choice(HOSTILE_NAMES), random.random()
    neighbor = file.with_name(
        name.replace("/", "_") + (file.suffix if random.random() < 0.7 else "")
    )
    source = file.parent if file.parent != case and random.random() < 0.5 else file
    try:
        if pick < 0.35:
            shutil.copy(file, neighbor)
        elif pick < 0.5:
            file.rename(neighbor)
        elif pick < 0.65 and file.parent != case:
            shutil.copytree(
                file.parent, file.parent.with_name(name.replace("/", "_")), dirs_exist_ok=True
            )
        elif pick < 0.75:
            os.mkfifo(neighbor)
        elif pick < 0.9:
            target = outside / "linked"
            if source.is_dir():  # a linked folder: writing into it writes outside
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(source, target)
                shutil.rmtree(source)
                source.symlink_to(target)
            else:
                neighbor.symlink_to(outside / "secret.txt")
        else:
            linked = file.with_name(
                random.choice(
                    (
                        "overview.png",
                        "report.html",
                        "probes.yaml",
                        "error.txt",
                        "optuna.journal.lock",
                        "study.lock",
                        "trials",
                        "cache",
                    )
                )
            )
            if not linked.exists():
                linked.symlink_to(outside / "written")
    except OSError:  # a name that the file system rejects
        shutil.copy(file, file.with_name("copy" + file.suffix))


def resolve_outside(outside: Path, content: bytes) -> bytes:
    """Replaces OUTSIDE by the path of the folder that no case may access."""
    return content.replace(OUTSIDE.encode(), str(outside).encode())
