"""The folders in which cases are run, and whether anything around them has changed."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from bench.fuzzing import good
from bench.fuzzing.values import MODULE

SECRET = "lorafuzz-5e4c7"
CANARY_CODE = "import pathlib; pathlib.Path({place!r}).write_text('imported')\n\nclass Adam: pass\n"
State = dict[str, tuple[int, ...]]


class Place:
    """The folders of a process: the case's, those around it, and what must stay as it is."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.case, self.scratch = self.root / "case", self.root / "tmp"
        self.around = [self.root / "outside", self.root / "cwd"]
        self.outside, self.cwd = self.around
        shutil.rmtree(self.root, ignore_errors=True)
        for folder in (*self.around, self.scratch):
            folder.mkdir(parents=True)
        self.fill()

    def fill(self) -> None:
        """The folder that nobody has named, and a working folder with code in it."""
        (self.outside / "secret.txt").write_text(SECRET)
        (self.outside / "pictures").mkdir()
        good.pictures(self.outside / "pictures", ("picture.png",))
        good.pictures(self.cwd / "pictures", good.PICTURE_NAMES[:3])  # what kohya's files name
        for folder in (self.cwd, self.cwd / "mlruns" / "studies" / "friend"):
            folder.mkdir(parents=True, exist_ok=True)
            code = CANARY_CODE.format(place=str(self.outside / "imported"))
            (folder / f"{MODULE}.py").write_text(code)
            (folder / "evil.py").write_text(code)

    def empty(self) -> None:
        """No case's input."""
        if self.case.is_symlink():
            self.case.unlink()
        elif self.case.exists():
            shutil.rmtree(self.case)

    def clean(self) -> None:
        """Everything as before the first case."""
        for folder in (*self.around, self.scratch):
            for path in folder.iterdir():  # the folder itself stays: it is the working folder
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        self.fill()


def snapshot(folders: list[Path]) -> State:
    """What is in some folders: kinds, sizes, times; nothing is followed or opened."""
    found: State = {}
    for folder in folders:
        for place, inner, files in os.walk(folder):
            for name in [*inner, *files]:
                path = os.path.join(place, name)
                about = os.lstat(path)
                is_file = stat.S_ISREG(about.st_mode)
                found[path] = (
                    (about.st_mode, about.st_size, about.st_mtime_ns)
                    if is_file
                    else (about.st_mode,)
                )
    return found


def changed(before: State, after: State) -> list[str]:
    """The places that are not as they were."""
    return sorted(
        path for path in before.keys() | after.keys() if before.get(path) != after.get(path)
    )
