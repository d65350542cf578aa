"""Untrusted text reaches the terminal without control characters."""

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
from sweeper.console.live_table import StudyTable
from sweeper.results.ranking import rank_trials
from sweeper.results.summary_table import print_selection, print_table
from sweeper.tracking.trial_record import FAILED, load_records, trial_folder
from tests.security.hostile_texts import TEXTS
from tests.sweeper.conftest import Swept, copy_sweep, swept  # noqa: F401
from tests.test_house import FILES, ROOT
from train.text.display import printable
from train.text.shell import in_shell
from train.text.terminal import LineFormatter, exit_with_error, print_in_handler, print_lines

CONTROL_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}
JOINERS = "\u200c\u200d"
# the only files that may print, exit, or create tables and consoles
OUTPUT_FILES = {"train/text/terminal.py", "evaluate/console/tables.py"}


def control_characters(output: str) -> list[str]:
    """Returns the characters that a terminal would interpret, except line breaks."""
    return [
        c
        for c in output
        if c != "\n" and c not in JOINERS and unicodedata.category(c) in CONTROL_CATEGORIES
    ]


def test_all_control_characters_are_escaped() -> None:
    for code in range(0x110000):
        character = chr(code)
        escaped = unicodedata.category(character) in CONTROL_CATEGORIES and character not in JOINERS
        if escaped:
            assert printable(character).isascii(), hex(code)
            assert printable(character) != character, hex(code)
        elif unicodedata.category(character) not in ("Cn", "Co"):
            assert printable(character) == character, hex(code)
    assert printable("a\tb\nc\x1b", "\n\t") == "a\tb\nc\\x1b"
    for text in TEXTS.values():
        assert printable(printable(text)) == printable(text)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_log_lines_and_printed_lines_are_escaped(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, f"trial 0  failed: {text}", (), None)
    output = LineFormatter().format(record)
    assert control_characters(output) == []
    assert "\n" not in output
    print_lines(f"the LoRA to keep: {text}", "next")
    assert capsys.readouterr().out == f"the LoRA to keep: {printable(text)}\nnext\n"
    with pytest.raises(SystemExit) as end:
        exit_with_error(text)
    assert end.value.code == f"error: {printable(text)}"


def test_logged_traceback_keeps_its_lines() -> None:
    try:
        raise ValueError("a\x1b[31m")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "went wrong", (), sys.exc_info())
    output = LineFormatter().format(record)
    assert output.splitlines()[:2] == ["went wrong", "Traceback (most recent call last):"]
    assert output.endswith(r"ValueError: a\x1b[31m")


def test_output_of_libraries_is_escaped() -> None:
    """Warnings, tracebacks and prints; line breaks, tabs and other languages are kept."""
    code = (
        "import sys, warnings; from train.cli.app import configure_logging as c; c(); c();"
        r"print('a\tü\x1b[31m\u202e'); warnings.warn('\x9b31m'); sys.stderr.write('\x1b]0;');"
        r"sys.stderr.write('\x1b[A\x1b[A\n'); sys.stderr.write('bar\x1b[A\n');"
        r"raise RuntimeError('\u2066\x1b[2J')"
    )
    command = [sys.executable, "-X", "utf8", "-c", code]
    process = subprocess.run(command, capture_output=True, check=False, cwd=ROOT)
    assert process.stdout.decode() == "a\tü\\x1b[31m\\u202e\n"
    output = process.stderr.decode()
    assert "\x1b[A\x1b[A\nbar\\x1b[A\n" in output, (
        "only the cursor movements of progress bars are kept"
    )
    assert control_characters(output.replace("\x1b[A", "")) == []
    assert r"RuntimeError: \u2066\x1b[2J" in output


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_quoted_text_is_read_back_by_a_shell(text: str, tmp_path: Path) -> None:
    word = in_shell(text)
    assert control_characters(word) == []
    assert "\n" not in word
    process = subprocess.run(["bash", "-c", f"printf '%s' {word}".encode("utf-8", "surrogatepass")],
                          capture_output=True, check=True, cwd=tmp_path)  # fmt: skip
    expected = b"".join(
        c.encode("utf-8", "surrogateescape" if "\udc80" <= c <= "\udcff" else "surrogatepass")
        for c in text
    )
    assert process.stdout == expected
    assert not list(tmp_path.iterdir())


def render(content: RenderableType) -> str:
    """Renders content in a console that also reads markup."""
    console = Console(record=True, width=300, height=40, file=StringIO())
    console.print(content)
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
    usable, broken = card(file), card(file, 2)
    usable.notes, usable.unit, broken.failure = [text], text or "epoch", text or "broken"
    broken.scores = {}
    _print_results([usable, broken], select([usable, broken], PolicyConfig()), [])
    output = capsys.readouterr().out
    assert control_characters(output) == []
    assert f"keep {printable(str(file))}\n" in output
    assert "0.40 to 0.60" in render(table([usable, broken], usable, intervals=True))


@pytest.fixture
def study(swept: Swept, tmp_path: Path) -> Path:  # noqa: F811
    """A copy of a finished study, in a folder whose name contains markup."""
    return copy_sweep(swept, tmp_path / "[v2] roots [/x]") / "studies" / "small"


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_trial_table_and_selected_checkpoint(
    text: str, study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    records = load_records(study)
    for record, rank in zip(records, ("1", text), strict=True):
        record.params = {f"a.{text}": rank, "b": text}
        record.reason = text
        record.epochs[-1].scorecard.notes = [text]
    ranked = rank_trials(records, PolicyConfig(), lambda record: text)
    print_table(ranked)
    print_selection(study, ranked, PolicyConfig())
    output = capsys.readouterr().out
    assert control_characters(output) == []
    assert f"the LoRA to keep: {study}/best.safetensors\n" in output
    if "\n" not in text and len(text) < 40:
        assert printable(text) in output
    monkeypatch.setattr(live_table, "load_records", lambda study: records)
    lines = StudyTable(study.parent / f"x{text.replace('/', '')}", 2, 2, PolicyConfig())
    screen = render(lines)
    assert control_characters(screen) == []
    assert screen.count("complete") == 2, "one row per trial"


@pytest.mark.parametrize("text", ["rich", "ansi", "bidi", "line break"])
def test_select_with_a_received_study(text: str, study: Path) -> None:
    file = trial_folder(study, 0) / "trial.json"
    saved = json.loads(file.read_text())
    saved |= {"reason": TEXTS[text], "state": FAILED, "params": {"network.rank": TEXTS[text]}}
    file.write_text(json.dumps(saved))
    process = subprocess.run(
        [sys.executable, "-m", "sweeper.select", "study=small", f"root={study.parent.parent}"],
        capture_output=True, text=True, check=False, encoding="utf-8", cwd=ROOT,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert control_characters(process.stdout + process.stderr) == []
    kept = re.escape(f"the LoRA to keep: {study}/trials/0001/lora")
    assert re.search(rf"^{kept}(-\d{{6}})?\.safetensors$", process.stdout, re.MULTILINE)


def direct_output(tree: ast.AST) -> Iterator[str]:
    """Yields calls that write to the terminal without escaping."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        values = [argument for argument in node.args if not isinstance(argument, ast.Constant)]
        if name == "print" and values:
            yield f"line {node.lineno}: print of a non-constant; use print_lines, which escapes it"
        if name in ("sys.exit", "exit", "SystemExit") and not all(
            isinstance(argument, ast.Name | ast.Attribute) for argument in values
        ):
            yield f"line {node.lineno}: {name} with a message; use leave(), which escapes it"
        if re.fullmatch(r"sys\.std(out|err)\.write(lines)?|Console|Table", name):
            yield f"line {node.lineno}: {name}; see evaluate/console/tables.py"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_write_to_the_terminal_only_through_escaping(file: Path) -> None:
    if file.relative_to(ROOT).as_posix() not in OUTPUT_FILES:
        assert [*direct_output(ast.parse(file.read_text(encoding="utf-8")))] == []


def test_signal_handler_can_print_during_a_write(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Busy(StringIO):
        def write(self, text: str) -> int:
            raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    monkeypatch.setattr(sys, "stderr", Busy())
    print_in_handler("finishing this epoch")
    assert capfd.readouterr().err == "finishing this epoch\n"
