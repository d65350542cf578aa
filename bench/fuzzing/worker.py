"""A process that runs cases, one after the other, and says of each how it ended."""

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

from bench.fuzzing import cases, good, readers
from bench.fuzzing.capture import captured
from bench.fuzzing.guard import Guard
from bench.fuzzing.place import SECRET, Place, State, changed, snapshot
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
SECONDS, MOST_MEMORY, BACKSTOP = 20, 2_000_000_000, 6_000_000_000
WAITING = 0.02  # of the time: who computes less waits for something
LONGEST = 1000  # characters of a line that refuses
# what a terminal acts on; a line's end and a tab are what they seem
ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# settings that no file decides
FOREIGN = (
    "scores.clip_model",
    "scores.pose_model",
    "base.path",
    "cache_path",
    "study.storage",
    "study.root",
    "probes.file",
    "data.dataset_config",
)


_began = [0.0]  # processor time at the beginning of a case


class Hang(BaseException):
    """A case takes longer than it may."""


@dataclass
class Outcome:
    """How a case ended.

    Attributes:
        kind: LOADED, REFUSED, or what is wrong.
        words: the line; where something is wrong, what.
        peak: bytes above what the process had after its imports.
    """

    reader: str
    number: int
    kind: str
    words: str = ""
    seconds: float = 0.0
    peak: int = 0
    problems: list[str] = field(default_factory=list)


class Worker:
    """Runs cases of the good files in a folder."""

    def __init__(self, made: Path, root: Path, seed: int, seeds: list[Path]) -> None:
        torch.set_num_threads(1)
        self.made, self.seed, self.seeds = made, seed, seeds
        self.place = Place(root)
        os.environ |= {
            "TMPDIR": str(self.place.scratch),
            SECRET_NAME: SECRET,
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        self.world = readers.make_world()
        with FileLock(f"{made}.lock"):
            if not made.is_dir():
                partial = made.with_name(f"{made.name}.partial")
                shutil.rmtree(partial, ignore_errors=True)
                good.build(partial, self.world.base)
                partial.rename(made)
        os.chdir(self.place.cwd)
        sys.path.insert(0, "")  # as `python -m` has it: the working folder
        self.guard = Guard((self.place.case, self.place.scratch), self.place.outside)
        for name in cases.READERS:  # what a reader imports with good files is none of the cases'
            self.begin(name)
            with captured():
                self._read(name, cases.READERS[name])
        self.place.clean()
        self.least = _status("VmRSS")
        resource.setrlimit(
            resource.RLIMIT_AS, (_status("VmSize") + BACKSTOP, resource.RLIM_INFINITY)
        )
        signal.signal(signal.SIGALRM, _alarm)

    def begin(self, name: str) -> None:
        """The case's folder has a reader's good files."""
        self.place.empty()
        shutil.copytree(self.made / cases.READERS[name].good, self.place.case)

    def _read(self, name: str, reader: readers.Reader) -> Any:
        found: list[Any] = []
        with readers.as_a_command([self.place.case]):
            with_one_line_errors(lambda: found.append(reader.read(self.place.case, self.world)))
        return found[0]

    def run(self, name: str, number: int) -> Outcome:
        """One case, from its number."""
        self.place.empty()
        cases.write_case(
            name, number, self.seed, self.made, self.place.case, self.place.outside, self.seeds
        )
        return self.judge(name, number, cases.READERS[name])

    def alone(self, name: str, number: int) -> None:
        """One case, whose input is kept; then the traceback, where it has one."""
        outcome = self.run(name, number)
        print(
            json.dumps(asdict(outcome), indent=1),
            f"the input, as it was left: {self.place.case}",
            sep="\n",
        )
        shutil.copytree(self.place.case, self.place.root / "left", symlinks=True, ignore=_pipes)
        shutil.rmtree(self.place.case)
        cases.write_case(
            name, number, self.seed, self.made, self.place.case, self.place.outside, self.seeds
        )
        faulthandler.dump_traceback_later(SECONDS)
        _began[0] = time.process_time()
        signal.setitimer(signal.ITIMER_REAL, SECONDS + 5)
        with self.guard.watching(_named(cases.READERS[name], self.place.case)):
            print(str(self._read(name, cases.READERS[name]))[:2000])

    def judge(self, name: str, number: int, reader: readers.Reader) -> Outcome:
        """What becomes of what is in the case's folder."""
        place, outcome = self.place, Outcome(name, number, LOADED)
        around, before = snapshot(place.around), snapshot([place.case])
        modules = {*sys.modules}
        named = _named(reader, place.case)
        _clear_peak()
        began, result = time.perf_counter(), None
        _began[0] = time.process_time()
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        with captured() as told, self.guard.watching(named) as seen:
            try:
                result = self._read(name, reader)
            except SystemExit as end:
                outcome.kind, outcome.words = REFUSED, str(end.code)
            except Hang:
                outcome.kind, outcome.words = HANG, _last_lines()
            except BaseException as error:
                outcome.kind, outcome.words = TRACEBACK, _last_lines()
                if isinstance(error, MemoryError):
                    outcome.kind = MEMORY
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        outcome.seconds = time.perf_counter() - began
        outcome.peak = max(0, _status("VmHWM") - self.least)
        problems = [*seen]
        problems += self._traces(
            reader, around, before, told.getvalue() + str(result).encode("utf-8", "replace")
        )
        problems += _foreign(result, place.outside)
        problems += [f"import: {m}" for m in {*sys.modules} - modules if MODULE in m]
        if problems and outcome.kind not in (TRACEBACK, HANG, MEMORY):
            outcome.words = f"{outcome.words} {problems[0]}".strip()
            outcome.kind = CANARY
        outcome.problems = problems
        line = outcome.words if outcome.kind == REFUSED else ""
        if "\n" in line or len(line) > LONGEST or (line and not line.startswith("error: ")):
            outcome.kind = TRACEBACK
            outcome.problems.append(
                f"line: {len(line)} characters, {line.count(chr(10))} ends of lines"
            )
        if acting := ACTING.search(line + told.getvalue().decode("utf-8", "replace")):
            outcome.problems.append(f"terminal: {unicodedata.name(acting[0], hex(ord(acting[0])))}")
            outcome.kind = CANARY if outcome.kind in (LOADED, REFUSED) else outcome.kind
        if outcome.peak > MOST_MEMORY and outcome.kind in (LOADED, REFUSED):
            outcome.kind = MEMORY
        return outcome

    def _traces(
        self, reader: readers.Reader, around: State, before: State, told: bytes
    ) -> list[str]:
        """What a case has left: files, and the secret in what it wrote or said."""
        place = self.place
        left = changed(around, snapshot(place.around))
        problems = [
            f"write: {os.path.relpath(path, place.root)}"
            for path in left
            if path not in map(str, place.around)
        ]
        after = snapshot([place.case])
        written = [os.path.relpath(path, place.case) for path in changed(before, after)]
        for name in written:
            path = place.case / name
            if path.is_dir() or ".lock" in name:
                continue
            if not any(fnmatch.fnmatch(name, pattern) for pattern in reader.writes):
                problems.append(f"write: {name}, which is only to be read")
            if path.is_file() and SECRET.encode() in path.read_bytes():
                problems.append(f"secret: in {name}")
        if SECRET.encode() in told:
            problems.append("secret: in what is said")
        if left:
            place.clean()
        return problems


def _named(reader: readers.Reader, case: Path) -> frozenset[str]:
    """The files that may be read wherever they are: typed ones, and links that are followed."""
    files = [case / target.file for target in reader.targets if reader.typed]
    links = [case / name for name in os.listdir(case) if os.path.islink(case / name)]
    files += [link for link in links if link.suffix in reader.follows]
    inside = [file for link in links if link.is_dir() for file in link.rglob("*")]
    files += [file for file in inside if file.suffix in reader.follows]
    return frozenset(map(os.path.realpath, files))


def _pipes(folder: str, names: list[str]) -> list[str]:
    """Of the names in a folder those that are no files, which nothing can be copied from."""
    modes = {name: os.lstat(os.path.join(folder, name)).st_mode for name in names}
    return [name for name, mode in modes.items() if stat.S_ISFIFO(mode)]


def _foreign(result: Any, outside: Path) -> list[str]:
    """Settings out of a file that name what only a person may."""
    parts = result if isinstance(result, tuple) else (result,)
    received = next((p["received"] for p in parts if isinstance(p, dict) and "received" in p), None)
    if received is None:
        return []
    bad = {
        text.replace(OUTSIDE, str(outside))
        for text in (*ADDRESSES, *PATHS)
        if text not in ("", ".")
    }
    found = [
        f"setting: {key}={received.get(key)!r:.80}"
        for key in FOREIGN
        if isinstance(received.get(key), str)
        and (received[key] in bad or str(outside) in received[key])
    ]
    target = received.get("optimizer._target_")
    if target not in OPTIMIZERS or target in CLASSES[:8]:
        found.append(f"setting: optimizer._target_={target!r:.80}")
    return found


def _alarm(number: int, frame: FrameType | None) -> None:
    """Ends a case that computes for too long, or waits; one that other programs slow goes on."""
    signal.setitimer(signal.ITIMER_REAL, 2)  # again: it may have been caught
    if not WAITING * SECONDS < time.process_time() - _began[0] < SECONDS:
        raise Hang


def _last_lines() -> str:
    """The end of a traceback: where it happened, and what."""
    kind, error, trace = sys.exc_info()
    frames = [f for f in traceback.extract_tb(trace) if "/bench/" not in f.filename]
    shown = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in [*frames[:1], *frames[-5:]]]
    own = [
        f for f in frames if "/site-packages/" not in f.filename and "/lib/python" not in f.filename
    ]
    last = (
        f"{'/'.join(Path(own[-1].filename).parts[-2:])}:{own[-1].lineno} {own[-1].name}"
        if own
        else "-"
    )
    return f"[{last}] {kind.__name__ if kind else ''}: {str(error)[:200]} <- {' > '.join(shown)}"


def _status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def _clear_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def show(name: str, number: int) -> None:
    """One case alone, of a process with the arguments of a worker."""
    made, root, seed, *seeds = sys.argv[1:]
    Worker(Path(made), Path(root), int(seed), [Path(file) for file in seeds]).alone(name, number)


def main() -> None:
    """Says which readers there are, then answers each line `reader number` with one of JSON."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints
    made, root, seed, *seeds = sys.argv[1:]
    worker = Worker(Path(made), Path(root), int(seed), [Path(file) for file in seeds])
    print(json.dumps({name: reader.weight for name, reader in cases.READERS.items()}), file=answers)
    for line in sys.stdin:
        name, number = line.rsplit(" ", 1)
        print(json.dumps(asdict(worker.run(name, int(number)))), file=answers)


if __name__ == "__main__":
    main()
