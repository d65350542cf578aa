"""Mutated files do not make any reader run code, write elsewhere or crash."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bench import fuzz
from bench.fuzzing import cases, worker
from bench.fuzzing.readers import SharedContext
from bench.fuzzing.values import MODULE, SECRET_NAME

CASES, SEED = 2000, 18
Read = Callable[[Path, SharedContext], object]


def test_mutated_files_are_loaded_or_refused(tmp_path: Path) -> None:
    outcomes = fuzz.run(CASES, 2, SEED, [], tmp_path)
    failures = [outcome for outcome in outcomes if outcome["kind"] not in fuzz.PASSED_KINDS]
    assert not failures, f"seed={SEED}\n" + "\n".join(map(fuzz.describe_failure, failures))
    counts = fuzz.count_outcomes(outcomes)
    assert counts.keys() == cases.READERS.keys()
    assert all(row["loaded"] for row in counts.values()), "a reader refused every file"


def evaluates_code(folder: Path, shared: SharedContext) -> object:
    return eval("1 + 1")


def hangs(folder: Path, shared: SharedContext) -> object:
    while True:
        try:
            time.sleep(1)
        except Exception:
            continue


def writes_outside(folder: Path, shared: SharedContext) -> object:
    return (folder.parent / "outside" / "new").write_text("x")


def writes_to_the_case(folder: Path, shared: SharedContext) -> object:
    return (folder / "new").write_text("x")


def reads_outside(folder: Path, shared: SharedContext) -> object:
    return len((folder.parent / "outside" / "secret.txt").read_text())


def imports_a_canary(folder: Path, shared: SharedContext) -> object:
    return __import__(MODULE)


def imports_a_standard_module(folder: Path, shared: SharedContext) -> object:
    return __import__("antigravity")


def starts_a_program(folder: Path, shared: SharedContext) -> object:
    return subprocess.run(["true"], check=True)


def connects_to_the_network(folder: Path, shared: SharedContext) -> object:
    return urllib.request.urlopen("http://127.0.0.1:9")


def unpickles(folder: Path, shared: SharedContext) -> object:
    return pickle.loads(b"cbuiltins\nlen\n.")


def prints_the_secret(folder: Path, shared: SharedContext) -> object:
    print(os.environ[SECRET_NAME])
    return None


def prints_a_control_character(folder: Path, shared: SharedContext) -> object:
    sys.stdout.buffer.write(b"\x1b[31mred")  # past the stream that escapes
    return None


def takes_memory(folder: Path, shared: SharedContext) -> object:
    return len(b"x" * 300_000_000)


def raises_an_error(folder: Path, shared: SharedContext) -> object:
    return dict[str, object]()["a file"]


def exits_with_two_lines(folder: Path, shared: SharedContext) -> object:
    sys.exit("error: one\ntwo")  # past the function that writes one line


HOSTILE_READERS: dict[Read, tuple[str, str]] = {
    evaluates_code: ("canary", "exec"),
    hangs: ("hang", ""),
    writes_outside: ("canary", "write"),
    writes_to_the_case: ("canary", "write"),
    reads_outside: ("canary", "read"),
    imports_a_canary: ("canary", "import"),
    imports_a_standard_module: ("canary", "import"),
    starts_a_program: ("canary", "program"),
    connects_to_the_network: ("canary", "network"),
    unpickles: ("canary", "pickle"),
    prints_the_secret: ("canary", "secret"),
    prints_a_control_character: ("canary", "terminal"),
    takes_memory: ("memory", ""),
    raises_an_error: ("traceback", ""),
    exits_with_two_lines: ("traceback", "line"),
}


def run_hostile_readers(root: str) -> None:
    """Runs in its own process: prints the outcomes of the hostile readers."""
    worker.TIMEOUT_SECONDS, worker.MAX_MEMORY = 1, 200_000_000
    process = worker.Worker(Path(root) / "corpus", Path(root) / "worker", SEED, [])
    for reader in HOSTILE_READERS:
        process.reset("values")
        outcome = process.run_reader("values", 0, replace(cases.READERS["values"], read=reader))
        print(json.dumps([reader.__name__, outcome.kind, outcome.problems]), flush=True)


def test_hostile_readers_are_caught(tmp_path: Path) -> None:
    module = "tests.security.files.test_fuzz"
    code = f"import sys; from {module} import run_hostile_readers; run_hostile_readers(sys.argv[1])"
    process = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=fuzz.ROOT
    )
    assert process.returncode == 0, process.stderr
    lines = [json.loads(line) for line in process.stdout.splitlines()]
    outcomes = {name: (kind, problems) for name, kind, problems in lines}
    assert {read.__name__: HOSTILE_READERS[read][0] for read in HOSTILE_READERS} == {
        name: k for name, (k, _) in outcomes.items()
    }
    for read, (_, prefix) in HOSTILE_READERS.items():
        problems = outcomes[read.__name__][1] or [""]
        assert any(problem.startswith(prefix) for problem in problems), read


def test_a_case_is_always_the_same_input(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    (corpus / "values").mkdir(parents=True)
    (corpus / "values" / "values.yaml").write_text(
        "template: a {subject}\nposes: {arms: [up, down]}\n"
    )
    for number in range(50):
        for copy in ("one", "other"):
            cases.write_case(
                "values", number, SEED, corpus, tmp_path / copy / str(number), tmp_path
            )
    assert have_same_content(tmp_path / "one", tmp_path / "other")


def have_same_content(one: Path, other: Path) -> bool:
    """Whether two folders contain the same files with the same content."""
    names = [
        sorted(str(file.relative_to(root)) for file in root.rglob("*")) for root in (one, other)
    ]
    files = [name for name in names[0] if (one / name).is_file() and not (one / name).is_symlink()]
    small = [name for name in files if (one / name).stat().st_size < 1e6]
    return names[0] == names[1] and all(
        (one / n).read_bytes() == (other / n).read_bytes() for n in small
    )
