"""A process that runs cases one after the other, and reports the outcome of each."""

from __future__ import annotations

import faulthandler
import fnmatch
import json
import os
import re
import resource
import shutil
import signal
import stat
import sys
import time
import traceback
import unicodedata
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from filelock import FileLock

from bench.fuzzing import cases, corpus, readers
from bench.fuzzing.capture import capture_output
from bench.fuzzing.guard import Guard
from bench.fuzzing.sandbox import SECRET, Sandbox, Snapshot, changed_paths, take_snapshot
from bench.fuzzing.values import ADDRESSES, CLASSES, MODULE, OUTSIDE, PATHS, SECRET_NAME
from train.cli.app import with_one_line_errors
from train.config.optimizer_arguments import OPTIMIZERS

LOADED, REFUSED, TRACEBACK, HANG, CANARY, MEMORY = (
    "loaded",
    "refused",
    "traceback",
    "hang",
    "canary",
    "memory",
)
TIMEOUT_SECONDS = 20
MAX_MEMORY = 2_000_000_000  # bytes; a case that takes more has failed
MEMORY_HEADROOM = 6_000_000_000  # bytes; the operating system allows no more
MIN_CPU_SHARE = 0.02  # of the time; a case that computes less is blocked
MAX_LINE_LENGTH = 1000  # characters of an error line
# characters that a terminal interprets; line feeds and tabs are harmless
TERMINAL_CODES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# settings that no file may decide
PROTECTED_SETTINGS = (
    "scores.clip_model",
    "scores.pose_model",
    "base.path",
    "cache_path",
    "study.storage",
    "study.root",
    "probes.file",
    "data.dataset_config",
)


_cpu_began = [0.0]  # CPU seconds of the process at the beginning of a case


class Hang(BaseException):
    """Raised when a case takes too long."""


@dataclass
class Outcome:
    """Outcome of a case.

    Attributes:
        kind: LOADED, REFUSED, or the kind of failure.
        words: the error line, or the end of the traceback.
        peak: peak memory in bytes above that of the process after its imports.
        problems: violations and other failures, each as "kind: details".
    """

    reader: str
    number: int
    kind: str
    words: str = ""
    seconds: float = 0.0
    peak: int = 0
    problems: list[str] = field(default_factory=list)


class Worker:
    """Runs cases, which are mutations of the corpus and of additional seed files."""

    def __init__(self, corpus_folder: Path, root: Path, seed: int, seeds: list[Path]) -> None:
        torch.set_num_threads(1)
        self.corpus_folder, self.seed, self.seeds = corpus_folder, seed, seeds
        self.sandbox = Sandbox(root)
        os.environ |= {
            "TMPDIR": str(self.sandbox.scratch),
            SECRET_NAME: SECRET,
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        self.shared = readers.load_shared_context()
        with FileLock(f"{corpus_folder}.lock"):
            if not corpus_folder.is_dir():
                partial = corpus_folder.with_name(f"{corpus_folder.name}.partial")
                shutil.rmtree(partial, ignore_errors=True)
                corpus.build_corpus(partial, self.shared.base)
                partial.rename(corpus_folder)
        os.chdir(self.sandbox.cwd)
        sys.path.insert(0, "")  # the working folder, as `python -m` does
        self.guard = Guard((self.sandbox.case, self.sandbox.scratch), self.sandbox.outside)
        for name in cases.READERS:  # imports that valid files need do not count
            self.reset(name)
            with capture_output():
                self._read(name, cases.READERS[name])
        self.sandbox.restore()
        self.baseline_memory = _memory_bytes("VmRSS")
        resource.setrlimit(
            resource.RLIMIT_AS, (_memory_bytes("VmSize") + MEMORY_HEADROOM, resource.RLIM_INFINITY)
        )
        signal.signal(signal.SIGALRM, _alarm)

    def reset(self, name: str) -> None:
        """Fills the case's folder with the corpus files of a reader."""
        self.sandbox.remove_case()
        shutil.copytree(self.corpus_folder / cases.READERS[name].corpus, self.sandbox.case)

    def _read(self, name: str, reader: readers.Reader) -> Any:
        results: list[Any] = []
        with readers.command_environment([self.sandbox.case]):
            with_one_line_errors(
                lambda: results.append(reader.read(self.sandbox.case, self.shared))
            )
        return results[0]

    def run(self, name: str, number: int) -> Outcome:
        """Writes and runs the case with this number."""
        self.sandbox.remove_case()
        self._write_case(name, number)
        return self.run_reader(name, number, cases.READERS[name])

    def _write_case(self, name: str, number: int) -> None:
        case, outside = self.sandbox.case, self.sandbox.outside
        cases.write_case(name, number, self.seed, self.corpus_folder, case, outside, self.seeds)

    def debug(self, name: str, number: int) -> None:
        """Runs a case, keeps its input, and runs it again with its traceback shown."""
        outcome = self.run(name, number)
        print(
            json.dumps(asdict(outcome), indent=1),
            f"input of the case: {self.sandbox.case}",
            sep="\n",
        )
        shutil.copytree(
            self.sandbox.case, self.sandbox.root / "left", symlinks=True, ignore=_ignore_pipes
        )
        shutil.rmtree(self.sandbox.case)
        self._write_case(name, number)
        faulthandler.dump_traceback_later(TIMEOUT_SECONDS)
        _cpu_began[0] = time.process_time()
        signal.setitimer(signal.ITIMER_REAL, TIMEOUT_SECONDS + 5)
        with self.guard.watching(_readable_files(cases.READERS[name], self.sandbox.case)):
            print(str(self._read(name, cases.READERS[name]))[:2000])

    def run_reader(self, name: str, number: int, reader: readers.Reader) -> Outcome:
        """Runs a reader on the files in the case's folder, and returns the outcome."""
        sandbox, outcome = self.sandbox, Outcome(name, number, LOADED)
        around, before = take_snapshot(sandbox.around), take_snapshot([sandbox.case])
        modules = {*sys.modules}
        readable = _readable_files(reader, sandbox.case)
        _clear_peak()
        began, result = time.perf_counter(), None
        _cpu_began[0] = time.process_time()
        signal.setitimer(signal.ITIMER_REAL, TIMEOUT_SECONDS)
        with capture_output() as output, self.guard.watching(readable) as violations:
            try:
                result = self._read(name, reader)
            except SystemExit as end:
                outcome.kind, outcome.words = REFUSED, str(end.code)
            except Hang:
                outcome.kind, outcome.words = HANG, _describe_traceback()
            except BaseException as error:
                outcome.kind, outcome.words = TRACEBACK, _describe_traceback()
                if isinstance(error, MemoryError):
                    outcome.kind = MEMORY
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        outcome.seconds = time.perf_counter() - began
        outcome.peak = max(0, _memory_bytes("VmHWM") - self.baseline_memory)
        problems = [*violations]
        problems += self._find_traces(
            reader, around, before, output.getvalue() + str(result).encode("utf-8", "replace")
        )
        problems += _find_protected_settings(result, sandbox.outside)
        problems += [f"import: {m}" for m in {*sys.modules} - modules if MODULE in m]
        if problems and outcome.kind not in (TRACEBACK, HANG, MEMORY):
            outcome.words = f"{outcome.words} {problems[0]}".strip()
            outcome.kind = CANARY
        outcome.problems = problems
        line = outcome.words if outcome.kind == REFUSED else ""
        if "\n" in line or len(line) > MAX_LINE_LENGTH or (line and not line.startswith("error: ")):
            outcome.kind = TRACEBACK
            outcome.problems.append(
                f"line: {len(line)} characters, {line.count(chr(10))} line breaks"
            )
        if code := TERMINAL_CODES.search(line + output.getvalue().decode("utf-8", "replace")):
            outcome.problems.append(f"terminal: {unicodedata.name(code[0], hex(ord(code[0])))}")
            outcome.kind = CANARY if outcome.kind in (LOADED, REFUSED) else outcome.kind
        if outcome.peak > MAX_MEMORY and outcome.kind in (LOADED, REFUSED):
            outcome.kind = MEMORY
        return outcome

    def _find_traces(
        self, reader: readers.Reader, around: Snapshot, before: Snapshot, output: bytes
    ) -> list[str]:
        """Finds written files, and the secret in files and output of a case."""
        sandbox = self.sandbox
        changes = changed_paths(around, take_snapshot(sandbox.around))
        problems = [
            f"write: {os.path.relpath(path, sandbox.root)}"
            for path in changes
            if path not in map(str, sandbox.around)
        ]
        after = take_snapshot([sandbox.case])
        written = [os.path.relpath(path, sandbox.case) for path in changed_paths(before, after)]
        for name in written:
            path = sandbox.case / name
            if path.is_dir() or ".lock" in name:
                continue
            if not any(fnmatch.fnmatch(name, pattern) for pattern in reader.writes):
                problems.append(f"write: {name}, which may only be read")
            if path.is_file() and SECRET.encode() in path.read_bytes():
                problems.append(f"secret: in {name}")
        if SECRET.encode() in output:
            problems.append("secret: in the output")
        if changes:
            sandbox.restore()
        return problems


def _readable_files(reader: readers.Reader, case: Path) -> frozenset[str]:
    """Returns the files that may be read wherever they are: typed ones, and links to follow."""
    files = [case / target.file for target in reader.targets if reader.typed]
    links = [case / name for name in os.listdir(case) if os.path.islink(case / name)]
    files += [link for link in links if link.suffix in reader.follows]
    inside = [file for link in links if link.is_dir() for file in link.rglob("*")]
    files += [file for file in inside if file.suffix in reader.follows]
    return frozenset(map(os.path.realpath, files))


def _ignore_pipes(folder: str, names: list[str]) -> list[str]:
    """Returns the named pipes in a folder, which cannot be copied."""
    modes = {name: os.lstat(os.path.join(folder, name)).st_mode for name in names}
    return [name for name, mode in modes.items() if stat.S_ISFIFO(mode)]


def _find_protected_settings(result: Any, outside: Path) -> list[str]:
    """Finds settings from a file that only the user may decide."""
    parts = result if isinstance(result, tuple) else (result,)
    received = next((p["received"] for p in parts if isinstance(p, dict) and "received" in p), None)
    if received is None:
        return []
    hostile = {
        text.replace(OUTSIDE, str(outside))
        for text in (*ADDRESSES, *PATHS)
        if text not in ("", ".")
    }
    problems = [
        f"setting: {key}={received.get(key)!r:.80}"
        for key in PROTECTED_SETTINGS
        if isinstance(received.get(key), str)
        and (received[key] in hostile or str(outside) in received[key])
    ]
    target = received.get("optimizer._target_")
    if target not in OPTIMIZERS or target in CLASSES[:8]:
        problems.append(f"setting: optimizer._target_={target!r:.80}")
    return problems


def _alarm(number: int, frame: FrameType | None) -> None:
    """Ends a case that computes for too long or is blocked, but not one that others slow down."""
    signal.setitimer(signal.ITIMER_REAL, 2)  # once more, because the exception may be caught
    if not MIN_CPU_SHARE * TIMEOUT_SECONDS < time.process_time() - _cpu_began[0] < TIMEOUT_SECONDS:
        raise Hang


def _describe_traceback() -> str:
    """Returns the place, the exception and the last frames of the current traceback."""
    kind, error, trace = sys.exc_info()
    frames = [f for f in traceback.extract_tb(trace) if "/bench/" not in f.filename]
    places = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in [*frames[:1], *frames[-5:]]]
    project_frames = [
        f for f in frames if "/site-packages/" not in f.filename and "/lib/python" not in f.filename
    ]
    last = "-"
    if project_frames:
        frame = project_frames[-1]
        last = f"{'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno} {frame.name}"
    return f"[{last}] {kind.__name__ if kind else ''}: {str(error)[:200]} <- {' > '.join(places)}"


def _memory_bytes(name: str) -> int:
    """Returns a line of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def _clear_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def debug_case(name: str, number: int) -> None:
    """Runs a single case, in a process with the arguments of a worker."""
    corpus_folder, root, seed, *seeds = sys.argv[1:]
    worker = Worker(Path(corpus_folder), Path(root), int(seed), [Path(file) for file in seeds])
    worker.debug(name, number)


def main() -> None:
    """Prints the weights of the readers, then for each line `reader number` the outcome as JSON."""
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries may print
    corpus_folder, root, seed, *seeds = sys.argv[1:]
    worker = Worker(Path(corpus_folder), Path(root), int(seed), [Path(file) for file in seeds])
    print(json.dumps({name: reader.weight for name, reader in cases.READERS.items()}), file=output)
    for line in sys.stdin:
        name, number = line.rsplit(" ", 1)
        print(json.dumps(asdict(worker.run(name, int(number)))), file=output)


if __name__ == "__main__":
    main()
