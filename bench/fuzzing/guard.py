"""A watch over what a case does besides reading: code that runs, files, programs, the network."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from bench.fuzzing.values import MODULE

# libraries that import parts of themselves when these are first needed
LAZY = frozenset({
    "PIL", "alembic", "bench", "cmaes", "cycler", "dateutil", "diffusers", "evaluate", "filelock",
    "hydra", "jinja2", "markupsafe", "matplotlib", "mpl_toolkits", "msgspec", "numpy", "omegaconf",
    "open_clip", "optuna", "pandas", "regex", "rich", "safetensors", "scipy", "sklearn",
    "sqlalchemy", "sweeper", "timm", "tokenizers", "torch", "torchvision", "train", "transformers",
    "yaml", "hydra_plugins", "joblib", "threadpoolctl", "tqdm", "six", "pytz", "packaging",
    "huggingface_hub", "mlflow", "grpc", "google", "fontTools", "kiwisolver", "antlr4", "colorlog",
    "torchmetrics", "lightning_utilities", "psutil", "contourpy",
})  # fmt: skip
# parts of Python that these import late
PLAIN = frozenset({
    "encodings", "sqlite3", "_sqlite3", "_strptime", "html", "xml", "zoneinfo", "unicodedata",
    "pyexpat", "email", "logging", "concurrent", "asyncio", "json", "importlib", "ctypes",
    "multiprocessing", "collections", "urllib", "http", "tempfile", "stringprep", "faulthandler",
    "linecache", "traceback", "tracemalloc", "_tracemalloc", "lzma", "_lzma", "bz2", "_bz2", "gzip",
    "uuid", "_uuid", "plistlib", "colorsys", "mmap", "pickletools", "cProfile", "profile", "pstats",
    "_lsprof", "timeit", "pdb", "cmd", "bdb", "code", "codeop", "statistics", "fractions",
    "decimal", "_decimal", "numbers", "_statistics", "difflib", "wave", "audioop", "netrc", "stat",
    "glob", "getpass", "termios", "readline", "rlcompleter", "tty", "pty", "_scproxy", "nturl2path",
    "ntpath", "_winapi", "msvcrt", "winreg", "_overlapped", "defusedxml", "olefile", "_pytest",
    "ipaddress", "_posixsubprocess",
})  # fmt: skip
# libraries that write Python themselves: dataclasses, templates, types in quotes
WRITERS = frozenset({
    "collections", "dataclasses", "enum", "importlib", "jinja2", "typing", "typing_extensions",
    "functools", "torch", "numpy", "attr", "attrs", "sqlalchemy", "contextlib", "inspect", "optuna",
    "matplotlib", "scipy", "sklearn", "omegaconf", "six", "hydra", "alembic", "transformers",
    "google", "traceback", "linecache", "pandas",
})  # fmt: skip
STARTS = (
    "subprocess.",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "os.fork",
    "pty.",
    "os.startfile",
)
NETWORK = (
    "socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.bind",
    "ftplib.", "urllib.", "http.client.connect", "smtplib.",
)  # fmt: skip
FOLLOWING = ("os.truncate", "os.chmod")  # ... whatever a link leads to; the others, the link itself
CHANGES = {
    "os.remove": (0,),
    "os.rename": (0, 1),
    "os.mkdir": (0,),
    "os.rmdir": (0,),
    "os.symlink": (1,),
    "os.link": (1,),
    "os.truncate": (0,),
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.utime": (0,),
    "os.setxattr": (0,),
    "shutil.rmtree": (0,),
    "shutil.move": (0, 1),
    "sqlite3.connect": (0,),
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
HARMLESS = {"/dev/null", "/dev/tty"}
STANDARD = sysconfig.get_paths()["stdlib"]


class Stopped(PermissionError):
    """What a case wanted to do and may not."""


@dataclass
class Guard:
    """Notes, and stops, what a reader of files has no business with.

    Attributes:
        own: folders in which a case may write.
        outside: the folder that nobody has named; no file of it may be read.
        seen: what a case did: the kind, and a few words.
        named: files that the command line names, wherever they are.
    """

    own: tuple[Path, ...]
    outside: Path
    armed: bool = False
    seen: list[str] = field(default_factory=list)
    named: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self._within = False
        sys.addaudithook(self._hook)

    @contextmanager
    def watching(self, named: frozenset[str] = frozenset()) -> Iterator[list[str]]:
        """Within this context everything is noted."""
        self.seen, self.named, self.armed = [], named, True
        try:
            yield self.seen
        finally:
            self.armed = False

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.armed or self._within:
            return
        self._within = True
        try:
            words = self._judged(event, arguments)
        finally:
            self._within = False
        if words:
            if len(self.seen) < 20:
                self.seen.append(words)
            raise Stopped(1, words)

    def _judged(self, event: str, arguments: tuple[Any, ...]) -> str:
        if event == "open":
            return self._open(*arguments)
        if event == "import":
            return _import(str(arguments[0]))
        if event == "exec":
            return _exec(sys._getframe(), arguments[0])
        if event == "compile":
            return f"compile: {str(arguments[0])[:60]}" if MODULE in str(arguments[0]) else ""
        if event == "pickle.find_class":
            return f"pickle: {arguments[0]}.{arguments[1]}"
        if event.startswith(STARTS):
            return f"program: {event} {str(arguments)[:80]}"
        if event.startswith(NETWORK):
            return "" if _is_local(arguments) else f"network: {event} {str(arguments)[:80]}"
        if places := CHANGES.get(event):
            entry = event not in FOLLOWING
            found = [self._outside_of_own(arguments[i], entry) for i in places]
            return f"write: {event} {found[0]}" if (found := [f for f in found if f]) else ""
        return ""

    def _open(self, path: Any, mode: Any, flags: Any) -> str:
        if isinstance(path, int) or path is None:
            return ""
        writing = (
            any(c in "wax+" for c in mode)
            if isinstance(mode, str)
            else bool(int(flags or 0) & WRITING)
        )
        if writing:
            return f"write: open {place}" if (place := self._outside_of_own(path)) else ""
        real = (
            os.path.realpath(os.fsdecode(path))
            if isinstance(path, str | bytes | os.PathLike)
            else ""
        )
        if real in self.named or not os.path.isfile(real):
            return ""
        if real.startswith(f"{self.outside}/"):
            return f"read: {os.path.relpath(real, self.outside)}"
        if real.startswith("/proc/self/environ") or real.endswith("/environ"):
            return f"read: {real}"
        return ""

    def _outside_of_own(self, path: Any, entry: bool = False) -> str:
        """The place, where it is not one of the case's own.

        Args:
            entry: a link is meant itself, and not what it leads to.
        """
        if isinstance(path, int):
            return ""
        text = os.fsdecode(path) if isinstance(path, bytes | os.PathLike) else str(path)
        text = (
            text.removeprefix("file:").partition("?mode=ro")[0]
            if text.startswith("file:")
            else text
        )
        if text == ":memory:" or not text:
            return ""
        folder, name = os.path.split(text)
        real = os.path.join(os.path.realpath(folder), name) if entry else os.path.realpath(text)
        if real in HARMLESS or any(
            real == str(own) or real.startswith(f"{own}/") for own in self.own
        ):
            return ""
        return text


def _import(name: str) -> str:
    parts = name.split(".")
    if name in sys.modules:
        return ""
    if MODULE in parts or parts[-1] == "__main__":
        return f"import: {name}"
    known = parts[0] in LAZY or parts[0] in PLAIN or parts[0].startswith("_")
    return "" if known else f"import: {name}"


def _exec(frame: FrameType | None, code: Any) -> str:
    """Who has code run that is no file's: only what writes its own."""
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    module = str(frame.f_globals.get("__name__", "")) if frame else ""
    top = module.split(".")[0].strip("_")
    if top in WRITERS or module.startswith(("importlib", "_frozen_importlib")):
        return ""
    name = getattr(code, "co_filename", "?")
    return f"exec: {name} from {module}"


def _is_local(arguments: tuple[Any, ...]) -> bool:
    """A socket between the parts of this process, such as that of an event loop."""
    address = arguments[1] if len(arguments) > 1 else ""
    return isinstance(address, str) and address.startswith(("/", "\0"))
