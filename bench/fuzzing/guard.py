"""Audit hook that detects what a reader must not do: run code, write files, use the network."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from bench.fuzzing.values import MODULE

# libraries that import their own modules lazily
LAZY_LIBRARIES = frozenset({
    "PIL", "alembic", "bench", "cmaes", "cycler", "dateutil", "diffusers", "evaluate", "filelock",
    "hydra", "jinja2", "markupsafe", "matplotlib", "mpl_toolkits", "msgspec", "numpy", "omegaconf",
    "open_clip", "optuna", "pandas", "regex", "rich", "safetensors", "scipy", "sklearn",
    "sqlalchemy", "sweeper", "timm", "tokenizers", "torch", "torchvision", "train", "transformers",
    "yaml", "hydra_plugins", "joblib", "threadpoolctl", "tqdm", "six", "pytz", "packaging",
    "huggingface_hub", "mlflow", "grpc", "google", "fontTools", "kiwisolver", "antlr4", "colorlog",
    "torchmetrics", "lightning_utilities", "psutil", "contourpy",
})  # fmt: skip
# modules of the standard library that these libraries import lazily
LAZY_STDLIB = frozenset({
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
# libraries that generate code: dataclasses, templates, string annotations
CODE_GENERATORS = frozenset({
    "collections", "dataclasses", "enum", "importlib", "jinja2", "typing", "typing_extensions",
    "functools", "torch", "numpy", "attr", "attrs", "sqlalchemy", "contextlib", "inspect", "optuna",
    "matplotlib", "scipy", "sklearn", "omegaconf", "six", "hydra", "alembic", "transformers",
    "google", "traceback", "linecache", "pandas",
})  # fmt: skip
PROCESS_EVENTS = (
    "subprocess.",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "os.fork",
    "pty.",
    "os.startfile",
)
NETWORK_EVENTS = (
    "socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.bind",
    "ftplib.", "urllib.", "http.client.connect", "smtplib.",
)  # fmt: skip
# of PATH_ARGUMENTS: these change the target of a link, the others the link itself
LINK_FOLLOWING_EVENTS = ("os.truncate", "os.chmod")
# audit event -> indices of its paths
PATH_ARGUMENTS = {
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
WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
ALLOWED_DEVICES = {"/dev/null", "/dev/tty"}


class Blocked(PermissionError):
    """Raised in place of a forbidden operation."""


@dataclass
class Guard:
    """Records and blocks operations that a reader of files must not do.

    Attributes:
        writable: folders in which a case may write.
        outside: the folder that no case may access; none of its files may be read.
        violations: what a case did, each as "kind: details".
        readable: files named on the command line, which may be read wherever they are.
    """

    writable: tuple[Path, ...]
    outside: Path
    armed: bool = False
    violations: list[str] = field(default_factory=list)
    readable: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self._in_hook = False
        sys.addaudithook(self._hook)

    @contextmanager
    def watching(self, readable: frozenset[str] = frozenset()) -> Iterator[list[str]]:
        """Checks all operations within this context, and yields the list of violations."""
        self.violations, self.readable, self.armed = [], readable, True
        try:
            yield self.violations
        finally:
            self.armed = False

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.armed or self._in_hook:
            return
        self._in_hook = True
        try:
            violation = self._check_event(event, arguments)
        finally:
            self._in_hook = False
        if violation:
            if len(self.violations) < 20:
                self.violations.append(violation)
            raise Blocked(1, violation)

    def _check_event(self, event: str, arguments: tuple[Any, ...]) -> str:
        if event == "open":
            return self._check_open(*arguments)
        if event == "import":
            return _check_import(str(arguments[0]))
        if event == "exec":
            return _check_exec(sys._getframe(), arguments[0])
        if event == "compile":
            return f"compile: {str(arguments[0])[:60]}" if MODULE in str(arguments[0]) else ""
        if event == "pickle.find_class":
            return f"pickle: {arguments[0]}.{arguments[1]}"
        if event.startswith(PROCESS_EVENTS):
            return f"program: {event} {str(arguments)[:80]}"
        if event.startswith(NETWORK_EVENTS):
            return "" if _is_local(arguments) else f"network: {event} {str(arguments)[:80]}"
        if indices := PATH_ARGUMENTS.get(event):
            link_itself = event not in LINK_FOLLOWING_EVENTS
            paths = [self._forbidden_path(arguments[i], link_itself) for i in indices]
            return next((f"write: {event} {path}" for path in paths if path), "")
        return ""

    def _check_open(self, path: Any, mode: Any, flags: Any) -> str:
        if isinstance(path, int) or path is None:
            return ""
        writing = (
            any(c in "wax+" for c in mode)
            if isinstance(mode, str)
            else bool(int(flags or 0) & WRITE_FLAGS)
        )
        if writing:
            return f"write: open {forbidden}" if (forbidden := self._forbidden_path(path)) else ""
        real = (
            os.path.realpath(os.fsdecode(path))
            if isinstance(path, str | bytes | os.PathLike)
            else ""
        )
        if real in self.readable or not os.path.isfile(real):
            return ""
        if real.startswith(f"{self.outside}/"):
            return f"read: {os.path.relpath(real, self.outside)}"
        if real.startswith("/proc/self/environ") or real.endswith("/environ"):
            return f"read: {real}"
        return ""

    def _forbidden_path(self, path: Any, link_itself: bool = False) -> str:
        """Returns the path if it may not be written, otherwise an empty string.

        Args:
            link_itself: check the path of a link, not that of its target.
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
        parent, name = os.path.split(text)
        real = (
            os.path.join(os.path.realpath(parent), name) if link_itself else os.path.realpath(text)
        )
        if real in ALLOWED_DEVICES or any(
            real == str(folder) or real.startswith(f"{folder}/") for folder in self.writable
        ):
            return ""
        return text


def _check_import(name: str) -> str:
    parts = name.split(".")
    if name in sys.modules:
        return ""
    if MODULE in parts or parts[-1] == "__main__":
        return f"import: {name}"
    expected = parts[0] in LAZY_LIBRARIES or parts[0] in LAZY_STDLIB or parts[0].startswith("_")
    return "" if expected else f"import: {name}"


def _check_exec(frame: FrameType | None, code: Any) -> str:
    """Only libraries in CODE_GENERATORS may execute code that does not come from a file."""
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    module = str(frame.f_globals.get("__name__", "")) if frame else ""
    top = module.split(".")[0].strip("_")
    if top in CODE_GENERATORS or module.startswith(("importlib", "_frozen_importlib")):
        return ""
    name = getattr(code, "co_filename", "?")
    return f"exec: {name} from {module}"


def _is_local(arguments: tuple[Any, ...]) -> bool:
    """Whether a socket is local to this machine, such as that of an event loop."""
    address = arguments[1] if len(arguments) > 1 else ""
    return isinstance(address, str) and address.startswith(("/", "\0"))
