"""What a stranger has written stands in the report, in plots and in MLflow as letters alone."""

from __future__ import annotations

import ast
import shlex
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from markdown_it import MarkdownIt
from markdown_it.token import Token
from optuna.distributions import CategoricalDistribution, FloatDistribution
from PIL import Image
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from evaluate.config import PolicyConfig
from evaluate.images.contact_sheet import Cell, Section, _page, data_sheet, read_sheet, save_sheet
from evaluate.images.epoch_grid import epoch_grid
from evaluate.selection.policy import select
from sweeper.results.mlflow_description import describe_study
from sweeper.results.overview_picture import draw_overview
from sweeper.results.ranking import RankedTrial, last_word, rank_trials
from sweeper.results.report.page import render
from sweeper.results.report.search_insights import _parallel
from sweeper.results.retrain_command import again_command
from sweeper.results.snippets import diffusers_snippet, reproduce_commands, study_command
from sweeper.tracking.mlflow_mirror import _note
from sweeper.tracking.trial_record import TrialRecord, load_records
from tests.security.hostile_texts import MARKUP, TEXTS
from tests.security.output.test_terminal import obeyed
from tests.sweeper.conftest import Swept, swept  # noqa: F401
from tests.sweeper.results.test_report import look
from train.text.display import printable

OURS = {"html", "head", "meta", "title", "link", "style", "script", "body"}
WHOLE = PolicyConfig()


def spoilt(record: TrialRecord, text: str) -> TrialRecord:
    """A record with one text wherever a record has room for text."""
    settings: dict[str, Any] = {name: dict(value) if isinstance(value, dict) else value
                                for name, value in record.settings.items()}  # fmt: skip
    settings["data"] |= {"trigger": text}
    settings["base"] |= {"path": text, text: text}
    settings["probes"] |= {"steps": text, "guidance": text}
    epochs = []
    for epoch in record.epochs:
        card = replace(epoch.scorecard, notes=[text], unit=text or "epoch")
        epochs.append(replace(epoch, scorecard=card))
    return replace(
        record, settings=settings, params={f"a.{text}": text, "network.rank": record.number},
        reason=text, epochs=epochs,
        overrides=[text, f"data.trigger={text}", f"base.path={text}", f"{text}=1",
                   f"network.rank={text}"],
        tags={**record.tags, "hardware.device": text},
    )  # fmt: skip


@pytest.fixture(scope="module")
def records(swept: Swept) -> list[TrialRecord]:  # noqa: F811
    return load_records(swept.study)


def ranked(records: list[TrialRecord], text: str) -> list[RankedTrial]:
    return rank_trials([spoilt(record, text) for record in records], WHOLE, lambda record: text)


class Parsed(HTMLParser):
    """The elements of a page, and the text of each."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.code: list[str] = []
        self.said: list[str] = []
        self._within: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._within.append(tag)
        if tag == "code":
            self.code.append("")

    def handle_endtag(self, tag: str) -> None:
        while self._within and self._within.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "code" in self._within:
            self.code[-1] += data
        if not {"style", "script"} & {*self._within}:
            self.said.append(data)


@pytest.fixture(scope="session")
def plain_tags(swept: Swept) -> set[str]:  # noqa: F811
    """The elements of the page of a study in which all texts are plain words."""
    page = render(swept.study, ranked(load_records(swept.study), "xyz"), WHOLE)
    return {tag for tag, _ in Parsed(page).elements}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_no_text_becomes_a_part_of_the_page(
    text: str,
    records: list[TrialRecord],
    plain_tags: set[str],
    swept: Swept,  # noqa: F811
) -> None:
    page = render(swept.study, ranked(records, text), WHOLE)
    found = Parsed(page)
    assert [c for c in obeyed(page) if c != "\t"] == []
    # the same elements with the same attributes, but where a text is left out for its kind
    assert {tag for tag, _ in found.elements} <= plain_tags
    assert sum(tag == "script" for tag, _ in found.elements) == 1
    for tag, attributes in found.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("data:", "#")), tag
    if text and "\n" not in text:
        assert printable(text) in "".join(found.said)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_what_is_pasted_into_a_shell_is_ours(
    text: str, records: list[TrialRecord], tmp_path: Path
) -> None:
    study = Path(f"{tmp_path}/ro ot{text.replace('/', '')}/studies/{text.replace('/', '') or 'x'}")
    record = spoilt(records[0], text)
    root = f" {shlex.quote('root=here')}"
    lines = [
        *reproduce_commands(text, study / "best.safetensors", root),
        study_command("report", study),
        again_command(record).command,
    ]
    assert len(lines) == 3, "a run's id is hexadecimal"
    assert len(reproduce_commands("a" * 32, study, root)) == 2
    for line in lines:
        assert obeyed(line) == []
        assert "\n" not in line
        shell = f"python() {{ printf '%s\\0' \"$@\"; }}; {line}"
        done = subprocess.run(["bash", "-c", shell], capture_output=True, check=True, cwd=tmp_path)
        words = done.stdout.decode(errors="replace").split("\0")[:-1]
        assert words[0] == "-m"
        assert all("=" in word and word[0] != "-" for word in words[2:]), words
    assert not [*tmp_path.iterdir()], "nothing was run"


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_what_is_pasted_into_python_is_ours(
    text: str, records: list[TrialRecord], tmp_path: Path
) -> None:
    file = Path(f"{tmp_path}/{text.replace('/', '')}/best.safetensors")
    snippet = diffusers_snippet(spoilt(records[0], text), file)
    assert obeyed(snippet) == []
    assert len(snippet.split("\n")) == 7
    tree = ast.parse(snippet)
    literals = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    assert {text, file.as_posix(), f"a photo of {text}"} <= {*literals}
    assert len(tree.body) == 6
    known = {"pipeline", "StableDiffusionPipeline", "prompt", "drawn"}
    assert {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} == known
    assert "num_inference_steps" not in snippet


@pytest.mark.parametrize(
    ("steps", "guidance", "written"),
    [
        (20, 7.5, "num_inference_steps=20, guidance_scale=7.5)"),
        (10**400, float("nan"), "pipeline(prompt)"),
        (True, float("inf"), "pipeline(prompt)"),
        ([1], None, "pipeline(prompt)"),
    ],
)
def test_numbers_of_the_program_are_numbers(
    steps: object, guidance: object, written: str, records: list[TrialRecord]
) -> None:
    settings = {**records[0].settings, "probes": {"steps": steps, "guidance": guidance}}
    snippet = diffusers_snippet(replace(records[0], settings=settings), Path("a.safetensors"))
    assert written in snippet
    ast.parse(snippet)
    diffusers_snippet(replace(records[0], settings={}), Path("a.safetensors"))


def test_a_trial_again_has_known_settings_alone(records: list[TrialRecord]) -> None:
    kept = [
        "network.rank=4", "data.path='/my pictures/it\\'s'", "data.trigger='sks $x'",
        "preset=style", "optimizer=adamw", "+optimizer.eps=1e-6", "optimizer.betas=[0.9,0.99]",
        "~optimizer.weight_decay", "network.alpha=${network.rank}", "scores.clip_model=puppets",
        "base.path=runwayml/some-model",
    ]  # fmt: skip
    dropped = [
        "--config-dir=/x", "--config-dir", "-cd=/x", "-m", "hydra.run.dir=/x",
        "hydra/launcher=evil",
        "hydra.searchpath=[file:///x]", "kohya=/x.toml", "dataset_config=/x.toml", "study.root=/x",
        "study.storage=sqlite:////x", "+study.name=../../x", "cache=disk", "cache_path=/x",
        "evil.key=1", "search=default", "selection.rule=last", "pruner._target_=evil.Pruner",
        "x; touch PWNED", "=1", "~data", "network=1;2", "+--config-dir=/x", "++hydra.verbose=true",
        "data.trigger='a\0b'",
    ]  # fmt: skip
    told = {
        "optimizer._target_=evil.Adam": "optimizer._target_",
        "+optimizer._partial_=true": "optimizer._partial_",
        "optimizer={_target_:evil.Adam}": "optimizer",
        "optimizer=../../evil": "optimizer",
        "optimizer=evil": "optimizer",
        "scores.clip_model='hf-hub:evil/model'": "scores.clip_model",
        "scores.pose_model='/x.task'": "scores.pose_model",
        "network.conv_rank=${oc.env:SECRET}": "network.conv_rank",
    }
    for override in kept:
        again = again_command(replace(records[0], overrides=[override]))
        assert len(shlex.split(again.command)) == 4, override
        assert not again.left_out
    old = again_command(replace(records[0], overrides=["training.oom=adapt", "policy=last"]))
    assert old.command == "python -m sweeper training.on_oom=degrade"
    again = again_command(replace(records[0], overrides=[*kept, *dropped]))
    assert shlex.split(again.command) == [
        "python", "-m", "sweeper", "network.rank=4", "data.path=/my pictures/it's",
        "data.trigger=sks $x", *kept[3:],
    ]  # fmt: skip
    for override, name in told.items():
        again = again_command(replace(records[0], overrides=[override]))
        assert again == ("python -m sweeper", [name]), override


def flat(tokens: list[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from flat(token.children or [])


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_description_is_the_markdown_that_we_wrote(text: str, records: list[TrialRecord]) -> None:
    markdown = MarkdownIt("commonmark").enable("table")
    entries = ranked(records, text)
    page = describe_study(entries)
    kinds = [token.type for token in flat(markdown.parse(page))]
    plain = describe_study(ranked(records, "xyz"))
    assert kinds == [token.type for token in flat(markdown.parse(plain))]
    assert obeyed(page) == []
    note = _note(entries[0].record, text)
    tokens = [*flat(markdown.parse(note))]
    assert not {"html_inline", "html_block", "link_open", "image"} & {t.type for t in tokens}
    assert "http:" not in note.replace(f"={text}", "").replace(f"a.{text}", "")
    if text and "\n" not in text:
        assert printable(f"a.{text}={text}").strip() in [t.content for t in tokens]


@pytest.mark.parametrize("text", [*TEXTS.values(), "ö" * 100_000], ids=[*TEXTS, "long"])
@pytest.mark.filterwarnings("error")
def test_plots_and_sheets_show_letters(
    text: str, records: list[TrialRecord], tmp_path: Path
) -> None:
    spoiled = [spoilt(record, text) for record in records]
    best, policy = spoiled[0], PolicyConfig(max={text or "copying": 0.5, "copying": 0.1})
    draw_overview(tmp_path / "a.png", spoiled, best, best.scorecards[0], policy)
    pixels = torch.zeros(3, 8, 8)
    sheet = data_sheet([(pixels, text), (pixels, text * 3)], [(pixels, text)])
    assert sheet.height < 1000
    cell = Cell(Image.new("RGB", (8, 8)), text, "fresh 0")
    save_sheet(_page([Section(text, [cell], 3)]), tmp_path / "sheet.png")
    assert read_sheet(tmp_path / "sheet.png")["fresh 0"].words in (text, text[:2000])
    epoch_grid({1: tmp_path / "sheet.png"}, 1, unit=text or "epoch")


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.filterwarnings("error::UserWarning")
def test_a_search_over_settings_of_any_name(text: str) -> None:
    study = optuna.create_study(direction="maximize")
    for number, choice in enumerate((text, "b", f"{text}c", "b")):
        study.add_trial(optuna.create_trial(
            params={f"a.{text}": choice, "optimizer.lr": 10.0**-number},
            distributions={
                f"a.{text}": CategoricalDistribution((text, "b", f"{text}c")),
                "optimizer.lr": FloatDistribution(1e-4, 1, log=True),
            },
            value=number / 4,
        ))  # fmt: skip
    page = str(_parallel(study))
    said = "".join(Parsed(page).said)
    assert "mathdefault" not in said, "the powers of ten on an axis are ours"
    for word in (text, last_word(f"a.{text}")):
        assert printable(word).strip() in said


@pytest.mark.parametrize("caption", ["a" * 1_000_000, "- " * 500_000, "\x00" * 1_000_000])
def test_a_caption_may_be_a_book(caption: str) -> None:
    before = time.monotonic()
    data_sheet([(torch.zeros(3, 8, 8), caption)] * 20, [])
    assert time.monotonic() - before < 5


def test_a_hostile_page_in_a_browser(
    swept: Swept,  # noqa: F811
    records: list[TrialRecord],
    browser: Chrome,
    tmp_path: Path,
) -> None:
    """No script but ours runs, and ours still sorts."""
    entries = ranked(records, MARKUP)
    file = tmp_path / "report.html"
    file.write_text(render(swept.study, entries, WHOLE), encoding="utf-8")
    said = look(browser, file)
    assert MARKUP in said
    assert "PWNED" not in browser.title
    for button in browser.find_elements(By.CSS_SELECTOR, "table.sortable thead button"):
        button.click()
        heading = button.find_element(By.XPATH, "..")
        assert heading.get_attribute("aria-sort") == "ascending"
    script = "const s = document.createElement('script'); s.textContent = 'document.title = 1';"
    browser.execute_script(f"{script} document.body.append(s)")
    assert browser.title != "1", "the policy of the page lets no other script run"
    browser.get_log("browser")
    copied = browser.execute_script(
        "return [...document.querySelectorAll('.copy-text')].map(b => "
        "[b.parentElement.querySelector('code').textContent, "
        "b.parentElement.querySelector('code').innerText])"
    )
    assert copied
    assert all(text == shown for text, shown in copied)


def test_the_pick_of_a_hostile_study_is_that_of_its_records(records: list[TrialRecord]) -> None:
    for record in records:
        cards = spoilt(record, MARKUP).scorecards
        assert (
            select(cards, WHOLE).scorecard.epoch == select(record.scorecards, WHOLE).scorecard.epoch
        )
