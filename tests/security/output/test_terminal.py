"""What a stranger has written reaches the terminal as letters alone."""

from __future__ import annotations

import ast
import json
import logging
import re
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from evaluate.config import PolicyConfig
from evaluate.score_files import _print_results, table
from evaluate.scorecard import Estimate, Scorecard
from evaluate.selection.policy import select
from sweeper.console import live_table
from sweeper.console.live_table import Display
from sweeper.results.ranking import rank_trials
from sweeper.results.summary_table import say, show
from sweeper.tracking.trial_record import FAILED, load_records, trial_folder
from tests.security.hostile_texts import TEXTS
from tests.sweeper.conftest import Swept, copied, swept  # noqa: F401
from tests.test_house import FILES, ROOT
from train.text.display import printable
from train.text.shell import in_shell
from train.text.terminal import LineFormatter, leave, print_in_handler, print_lines

OBEYED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
JOINERS = "\u200c\u200d"
# the only files that print, leave, or make tables and consoles
OURS = {"train/text/terminal.py", "evaluate/console/tables.py"}


def obeyed(said: str) -> list[str]:
    """The characters of an output that a terminal would obey, but for line breaks."""
    return [c for c in said if c != "\n" and c not in JOINERS and unicodedata.category(c) in OBEYED]


def test_whatever_a_terminal_obeys_is_escaped() -> None:
    for code in range(0x110000):
        character = chr(code)
        escaped = unicodedata.category(character) in OBEYED and character not in JOINERS
        if escaped:
            assert printable(character).isascii(), hex(code)
            assert printable(character) != character, hex(code)
        elif unicodedata.category(character) not in ("Cn", "Co"):
            assert printable(character) == character, hex(code)
    assert printable("a\tb\nc\x1b", "\n\t") == "a\tb\nc\\x1b"
    for text in TEXTS.values():
        assert printable(printable(text)) == printable(text)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_lines_of_the_log_and_of_a_command(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, f"trial 0  failed: {text}", (), None)
    said = LineFormatter().format(record)
    assert obeyed(said) == []
    assert "\n" not in said
    print_lines(f"the LoRA to keep: {text}", "next")
    assert capsys.readouterr().out == f"the LoRA to keep: {printable(text)}\nnext\n"
    with pytest.raises(SystemExit) as end:
        leave(text)
    assert end.value.code == f"error: {printable(text)}"


def test_a_traceback_in_the_log_keeps_its_lines() -> None:
    try:
        raise ValueError("a\x1b[31m")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "went wrong", (), sys.exc_info())
    said = LineFormatter().format(record)
    assert said.splitlines()[:2] == ["went wrong", "Traceback (most recent call last):"]
    assert said.endswith(r"ValueError: a\x1b[31m")


def test_what_libraries_write_is_escaped_too() -> None:
    """Warnings, tracebacks and bare prints; lines, tabs and other languages stay."""
    code = (
        "import sys, warnings; from train.cli.app import quiet; quiet(); quiet();"
        r"print('a\tü\x1b[31m\u202e'); warnings.warn('\x9b31m'); sys.stderr.write('\x1b]0;');"
        r"sys.stderr.write('\x1b[A\x1b[A\n'); sys.stderr.write('bar\x1b[A\n');"
        r"raise RuntimeError('\u2066\x1b[2J')"
    )
    command = [sys.executable, "-X", "utf8", "-c", code]
    done = subprocess.run(command, capture_output=True, check=False, cwd=ROOT)
    assert done.stdout.decode() == "a\tü\\x1b[31m\\u202e\n"
    said = done.stderr.decode()
    assert "\x1b[A\x1b[A\nbar\\x1b[A\n" in said, "the moves of progress bars alone"
    assert obeyed(said.replace("\x1b[A", "")) == []
    assert r"RuntimeError: \u2066\x1b[2J" in said


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_word_of_the_shell_is_read_back_and_runs_nothing(text: str, tmp_path: Path) -> None:
    word = in_shell(text)
    assert obeyed(word) == []
    assert "\n" not in word
    done = subprocess.run(["bash", "-c", f"printf '%s' {word}".encode("utf-8", "surrogatepass")],
                          capture_output=True, check=True, cwd=tmp_path)  # fmt: skip
    wanted = b"".join(
        c.encode("utf-8", "surrogateescape" if "\udc80" <= c <= "\udcff" else "surrogatepass")
        for c in text
    )
    assert done.stdout == wanted
    assert not list(tmp_path.iterdir())


def on_screen(shown: RenderableType) -> str:
    """What any console shows, one that reads markup too."""
    console = Console(record=True, width=300, height=40, file=StringIO())
    console.print(shown)
    return console.export_text(styles=False)


def card(file: Path, epoch: int = 1) -> Scorecard:
    names = ("prompt_fidelity", "subject_fidelity")
    scores = {name: Estimate(0.5, 0.4, 0.6) for name in names}
    return Scorecard(file, epoch, scores, {name: [0.5, 0.6] for name in names})


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_evaluate_prints_paths_that_exist(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = Path(f"{tmp_path}/{'long ' * 60}/{text.replace('/', '')}[v2][/x].safetensors")
    kept, broken = card(file), card(file, 2)
    kept.notes, kept.unit, broken.failure = [text], text or "epoch", text or "broken"
    broken.scores = {}
    _print_results([kept, broken], select([kept, broken], PolicyConfig()), [])
    said = capsys.readouterr().out
    assert obeyed(said) == []
    assert f"keep {printable(str(file))}\n" in said
    assert "0.40 to 0.60" in on_screen(table([kept, broken], kept, intervals=True))


@pytest.fixture
def study(swept: Swept, tmp_path: Path) -> Path:  # noqa: F811
    """A copy of a finished study, in a folder whose name is markup."""
    return copied(swept, tmp_path / "[v2] roots [/x]") / "studies" / "small"


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_the_table_of_trials_and_the_pick(
    text: str, study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    records = load_records(study)
    for record, rank in zip(records, ("1", text), strict=True):
        record.params = {f"a.{text}": rank, "b": text}
        record.reason = text
        record.epochs[-1].scorecard.notes = [text]
    ranked = rank_trials(records, PolicyConfig(), lambda record: text)
    show(ranked)
    say(study, ranked, PolicyConfig())
    said = capsys.readouterr().out
    assert obeyed(said) == []
    assert f"the LoRA to keep: {study}/best.safetensors\n" in said
    if "\n" not in text and len(text) < 40:
        assert printable(text) in said
    monkeypatch.setattr(live_table, "load_records", lambda study: records)
    lines = Display(study.parent / f"x{text.replace('/', '')}", 2, 2, PolicyConfig())
    shown = on_screen(lines)
    assert obeyed(shown) == []
    assert shown.count("complete") == 2, "a row for each trial"


@pytest.mark.parametrize("text", ["rich", "ansi", "bidi", "line break"])
def test_select_of_a_received_study(text: str, study: Path) -> None:
    file = trial_folder(study, 0) / "trial.json"
    saved = json.loads(file.read_text())
    saved |= {"reason": TEXTS[text], "state": FAILED, "params": {"network.rank": TEXTS[text]}}
    file.write_text(json.dumps(saved))
    done = subprocess.run(
        [sys.executable, "-m", "sweeper.select", "study=small", f"root={study.parent.parent}"],
        capture_output=True, text=True, check=False, encoding="utf-8", cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert obeyed(done.stdout + done.stderr) == []
    assert f"the LoRA to keep: {study}/trials/0001/lora.safetensors\n" in done.stdout


def bare(tree: ast.AST) -> Iterator[str]:
    """Calls that write to the terminal past the one way."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        told = [argument for argument in node.args if not isinstance(argument, ast.Constant)]
        if name == "print" and told:
            yield f"line {node.lineno}: print of what is no constant; print_lines escapes it"
        if name in ("sys.exit", "exit", "SystemExit") and not all(
            isinstance(argument, ast.Name | ast.Attribute) for argument in told
        ):
            yield f"line {node.lineno}: {name} with words; leave() escapes them"
        if re.fullmatch(r"sys\.std(out|err)\.write(lines)?|Console|Table", name):
            yield f"line {node.lineno}: {name}; see evaluate/console/tables.py"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_nobody_writes_to_the_terminal_by_himself(file: Path) -> None:
    if file.relative_to(ROOT).as_posix() not in OURS:
        assert [*bare(ast.parse(file.read_text(encoding="utf-8")))] == []


def test_a_signal_handler_prints_into_the_middle_of_a_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Busy(StringIO):
        def write(self, text: str) -> int:
            raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    monkeypatch.setattr(sys, "stderr", Busy())
    print_in_handler("finishing this epoch")
    assert capfd.readouterr().err == "finishing this epoch\n"
