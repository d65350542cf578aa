"""Folders: files that are links, pipes or devices, and names that are no names."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from random import Random

from bench.fuzzing.values import OUTSIDE

NAMES = (
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


def replaced(file: Path, outside: Path, random: Random) -> None:
    """In the place of a file something else of its name."""
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


def surrounded(file: Path, case: Path, outside: Path, random: Random) -> None:
    """Beside a file, or a folder that it is in, something more; or it has another name."""
    name, pick = random.choice(NAMES), random.random()
    beside = file.with_name(name.replace("/", "_") + (file.suffix if random.random() < 0.7 else ""))
    place = file.parent if file.parent != case and random.random() < 0.5 else file
    try:
        if pick < 0.35:
            shutil.copy(file, beside)
        elif pick < 0.5:
            file.rename(beside)
        elif pick < 0.65 and file.parent != case:
            shutil.copytree(
                file.parent, file.parent.with_name(name.replace("/", "_")), dirs_exist_ok=True
            )
        elif pick < 0.75:
            os.mkfifo(beside)
        elif pick < 0.9:
            away = outside / "linked"
            if place.is_dir():  # a linked folder: whoever writes into it writes outside
                shutil.rmtree(away, ignore_errors=True)
                shutil.copytree(place, away)
                shutil.rmtree(place)
                place.symlink_to(away)
            else:
                beside.symlink_to(outside / "secret.txt")
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
    except OSError:  # a name that this disk does not take
        shutil.copy(file, file.with_name("copy" + file.suffix))


def is_text_of(outside: Path, content: bytes) -> bytes:
    """A content in which the place that nobody has named is an existing one."""
    return content.replace(OUTSIDE.encode(), str(outside).encode())
