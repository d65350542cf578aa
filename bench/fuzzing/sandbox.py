"""The folders in which cases run, and checks whether files around them have changed."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from bench.fuzzing import corpus
from bench.fuzzing.values import MODULE

SECRET = "lorafuzz-5e4c7"
CANARY_CODE = "import pathlib; pathlib.Path({path!r}).write_text('imported')\n\nclass Adam: pass\n"
Snapshot = dict[str, tuple[int, ...]]


class Sandbox:
    """Folders of a worker process.

    Attributes:
        case: the input of the current case.
        scratch: for temporary files.
        outside, cwd: must not change; also in `around`.
    """

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
        """Writes files outside of the case, and a working folder that contains code."""
        (self.outside / "secret.txt").write_text(SECRET)
        (self.outside / "pictures").mkdir()
        corpus.write_images(self.outside / "pictures", ("picture.png",))
        # train_data_dir of the kohya configs
        corpus.write_images(self.cwd / "pictures", corpus.IMAGE_NAMES[:3])
        for folder in (self.cwd, self.cwd / "mlruns" / "studies" / "friend"):
            folder.mkdir(parents=True, exist_ok=True)
            code = CANARY_CODE.format(path=str(self.outside / "imported"))
            (folder / f"{MODULE}.py").write_text(code)
            (folder / "evil.py").write_text(code)

    def remove_case(self) -> None:
        """Removes the input of the last case."""
        if self.case.is_symlink():
            self.case.unlink()
        elif self.case.exists():
            shutil.rmtree(self.case)

    def restore(self) -> None:
        """Restores the state before the first case."""
        for folder in (*self.around, self.scratch):
            for (
                path
            ) in folder.iterdir():  # keeps the folder itself, as it may be the working folder
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        self.fill()


def take_snapshot(folders: list[Path]) -> Snapshot:
    """Returns mode, size and time of all files in some folders, without following links."""
    snapshot: Snapshot = {}
    for folder in folders:
        for parent, subfolders, files in os.walk(folder):
            for name in [*subfolders, *files]:
                path = os.path.join(parent, name)
                status = os.lstat(path)
                is_file = stat.S_ISREG(status.st_mode)
                snapshot[path] = (
                    (status.st_mode, status.st_size, status.st_mtime_ns)
                    if is_file
                    else (status.st_mode,)
                )
    return snapshot


def changed_paths(before: Snapshot, after: Snapshot) -> list[str]:
    """Returns the paths that were added, removed or changed, sorted."""
    return sorted(
        path for path in before.keys() | after.keys() if before.get(path) != after.get(path)
    )
