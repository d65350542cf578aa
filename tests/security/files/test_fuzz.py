"""Mutated files of strangers, read by every reader: none runs code, writes elsewhere or crashes."""

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
from bench.fuzzing.readers import World
from bench.fuzzing.values import MODULE, SECRET_NAME

CASES, SEED = 2000, 18
Read = Callable[[Path, World], object]


def test_no_file_does_more_than_be_read(tmp_path: Path) -> None:
    outcomes = fuzz.run(CASES, 2, SEED, [], tmp_path)
    wrong = [outcome for outcome in outcomes if outcome["kind"] not in fuzz.FINE]
    assert not wrong, f"seed={SEED}\n" + "\n".join(map(fuzz.line_of, wrong))
    counted = fuzz.counts(outcomes)
    assert counted.keys() == cases.READERS.keys()
    assert all(row["loaded"] for row in counted.values()), "nothing but refusals tests nothing"


def evaluates(folder: Path, world: World) -> object:
    return eval("1 + 1")


def hangs(folder: Path, world: World) -> object:
    while True:
        try:
            time.sleep(1)
        except Exception:
            continue


def writes_outside(folder: Path, world: World) -> object:
    return (folder.parent / "outside" / "new").write_text("x")


def writes_beside(folder: Path, world: World) -> object:
    return (folder / "new").write_text("x")


def reads_outside(folder: Path, world: World) -> object:
    return len((folder.parent / "outside" / "secret.txt").read_text())


def imports_a_canary(folder: Path, world: World) -> object:
    return __import__(MODULE)


def imports_what_python_has(folder: Path, world: World) -> object:
    return __import__("antigravity")


def starts_a_program(folder: Path, world: World) -> object:
    return subprocess.run(["true"], check=True)


def asks_the_network(folder: Path, world: World) -> object:
    return urllib.request.urlopen("http://127.0.0.1:9")


def unpickles(folder: Path, world: World) -> object:
    return pickle.loads(b"cbuiltins\nlen\n.")


def tells_the_secret(folder: Path, world: World) -> object:
    print(os.environ[SECRET_NAME])
    return None


def tells_the_terminal(folder: Path, world: World) -> object:
    sys.stdout.buffer.write(b"\x1b[31mred")  # past the stream that escapes
    return None


def takes_memory(folder: Path, world: World) -> object:
    return len(b"x" * 300_000_000)


def crashes(folder: Path, world: World) -> object:
    return dict[str, object]()["a file"]


def says_two_lines(folder: Path, world: World) -> object:
    sys.exit("error: one\ntwo")  # past the function that writes one line


BAD: dict[Read, tuple[str, str]] = {
    evaluates: ("canary", "exec"),
    hangs: ("hang", ""),
    writes_outside: ("canary", "write"),
    writes_beside: ("canary", "write"),
    reads_outside: ("canary", "read"),
    imports_a_canary: ("canary", "import"),
    imports_what_python_has: ("canary", "import"),
    starts_a_program: ("canary", "program"),
    asks_the_network: ("canary", "network"),
    unpickles: ("canary", "pickle"),
    tells_the_secret: ("canary", "secret"),
    tells_the_terminal: ("canary", "terminal"),
    takes_memory: ("memory", ""),
    crashes: ("traceback", ""),
    says_two_lines: ("traceback", "line"),
}


def answer(root: str) -> None:
    """In a process of its own: how the cases of the bad readers end."""
    worker.SECONDS, worker.MOST_MEMORY = 1, 200_000_000
    one = worker.Worker(Path(root) / "good", Path(root) / "worker", SEED, [])
    for bad in BAD:
        one.begin("values")
        outcome = one.judge("values", 0, replace(cases.READERS["values"], read=bad))
        print(json.dumps([bad.__name__, outcome.kind, outcome.problems]), flush=True)


def test_bad_readers_are_caught(tmp_path: Path) -> None:
    code = "import sys; from tests.security.files.test_fuzz import answer; answer(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=fuzz.ROOT
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    found = {name: (kind, problems) for name, kind, problems in lines}
    assert {bad.__name__: BAD[bad][0] for bad in BAD} == {name: k for name, (k, _) in found.items()}
    for bad, (_, begins) in BAD.items():
        problems = found[bad.__name__][1] or [""]
        assert any(problem.startswith(begins) for problem in problems), bad


def test_a_case_is_always_the_same_input(tmp_path: Path) -> None:
    made = tmp_path / "good"
    (made / "values").mkdir(parents=True)
    (made / "values" / "values.yaml").write_text(
        "template: a {subject}\nposes: {arms: [up, down]}\n"
    )
    for number in range(50):
        for copy in ("one", "other"):
            cases.write_case("values", number, SEED, made, tmp_path / copy / str(number), tmp_path)
    assert same(tmp_path / "one", tmp_path / "other")


def same(one: Path, other: Path) -> bool:
    """Whether two folders have the same files with the same content."""
    names = [
        sorted(str(file.relative_to(root)) for file in root.rglob("*")) for root in (one, other)
    ]
    files = [name for name in names[0] if (one / name).is_file() and not (one / name).is_symlink()]
    small = [name for name in files if (one / name).stat().st_size < 1e6]
    return names[0] == names[1] and all(
        (one / n).read_bytes() == (other / n).read_bytes() for n in small
    )
