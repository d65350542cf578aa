"""Untrusted text stays text in the report, in plots and in MLflow."""

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
from sweeper.results.overview_chart import draw_overview
from sweeper.results.ranking import RankedTrial, rank_trials, short_key
from sweeper.results.report.page import render
from sweeper.results.report.search_insights import _parallel_chart
from sweeper.results.retrain_command import retrain_command
from sweeper.results.snippets import (
    diffusers_snippet,
    example_prompt,
    reproduce_commands,
    study_command,
)
from sweeper.tracking.mlflow_mirror import _run_description
from sweeper.tracking.trial_record import TrialRecord, load_records
from tests.security.hostile_texts import MARKUP, TEXTS
from tests.security.output.test_terminal import control_characters
from tests.sweeper.conftest import Swept, swept  # noqa: F401
from tests.sweeper.results.test_report import open_report
from train.text.display import printable

POLICY = PolicyConfig()


def fill_with_text(record: TrialRecord, text: str) -> TrialRecord:
    """Returns a record with this text in every field that can hold text."""
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
    return rank_trials(
        [fill_with_text(record, text) for record in records], POLICY, lambda record: text
    )


class PageParser(HTMLParser):
    """Parses a page into its elements, text and code."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.code: list[str] = []
        self.texts: list[str] = []
        self._open_tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open_tags.append(tag)
        if tag == "code":
            self.code.append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open_tags and self._open_tags.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "code" in self._open_tags:
            self.code[-1] += data
        if not {"style", "script"} & {*self._open_tags}:
            self.texts.append(data)


@pytest.fixture(scope="session")
def plain_tags(swept: Swept) -> set[str]:  # noqa: F811
    """The tags in the page of a study in which all texts are plain words."""
    page = render(swept.study, ranked(load_records(swept.study), "xyz"), POLICY)
    return {tag for tag, _ in PageParser(page).elements}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_text_cannot_add_elements_to_the_page(
    text: str,
    records: list[TrialRecord],
    plain_tags: set[str],
    swept: Swept,  # noqa: F811
) -> None:
    page = render(swept.study, ranked(records, text), POLICY)
    parsed = PageParser(page)
    assert [c for c in control_characters(page) if c != "\t"] == []
    # no other elements or attributes; elements may be missing if the text is omitted
    assert {tag for tag, _ in parsed.elements} <= plain_tags
    assert sum(tag == "script" for tag, _ in parsed.elements) == 1
    for tag, attributes in parsed.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("data:", "#")), tag
    if text and "\n" not in text:
        assert printable(text) in "".join(parsed.texts)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_shell_commands_of_the_page_run_only_our_modules(
    text: str, records: list[TrialRecord], tmp_path: Path
) -> None:
    study = Path(f"{tmp_path}/ro ot{text.replace('/', '')}/studies/{text.replace('/', '') or 'x'}")
    record = fill_with_text(records[0], text)
    root = f" {shlex.quote('root=here')}"
    lines = [
        *reproduce_commands(text, study / "best.safetensors", root),
        study_command("report", study),
        retrain_command(record).command,
    ]
    assert len(lines) == 3, "run ids must be hexadecimal"
    assert len(reproduce_commands("a" * 32, study, root)) == 2
    for line in lines:
        assert control_characters(line) == []
        assert "\n" not in line
        shell = f"python() {{ printf '%s\\0' \"$@\"; }}; {line}"
        process = subprocess.run(
            ["bash", "-c", shell], capture_output=True, check=True, cwd=tmp_path
        )
        words = process.stdout.decode(errors="replace").split("\0")[:-1]
        assert words[0] == "-m"
        assert all("=" in word and word[0] != "-" for word in words[2:]), words
    assert not [*tmp_path.iterdir()], "no other command may run"


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_python_snippet_contains_texts_only_as_literals(
    text: str, records: list[TrialRecord], tmp_path: Path
) -> None:
    file = Path(f"{tmp_path}/{text.replace('/', '')}/best.safetensors")
    record = fill_with_text(records[0], text)
    snippet = diffusers_snippet(record, file, example_prompt(record, tmp_path / "probes.yaml"))
    assert control_characters(snippet) == []
    assert len(snippet.split("\n")) == 7
    tree = ast.parse(snippet)
    literals = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    assert {text, file.as_posix(), f"a photo of {text}"} <= {*literals}
    assert len(tree.body) == 6
    names = {"pipeline", "StableDiffusionPipeline", "prompt", "image"}
    assert {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} == names
    assert "num_inference_steps" not in snippet


@pytest.mark.parametrize(
    ("steps", "guidance", "call"),
    [
        (20, 7.5, "num_inference_steps=20, guidance_scale=7.5)"),
        (10**400, float("nan"), "pipeline(prompt)"),
        (True, float("inf"), "pipeline(prompt)"),
        ([1], None, "pipeline(prompt)"),
    ],
)
def test_invalid_numbers_are_left_out_of_the_snippet(
    steps: object, guidance: object, call: str, records: list[TrialRecord]
) -> None:
    settings = {**records[0].settings, "probes": {"steps": steps, "guidance": guidance}}
    file = Path("a.safetensors")
    snippet = diffusers_snippet(replace(records[0], settings=settings), file, "a photo")
    assert call in snippet
    ast.parse(snippet)
    diffusers_snippet(replace(records[0], settings={}), file, "a photo")


def test_retrain_command_has_known_settings_only(records: list[TrialRecord]) -> None:
    accepted = [
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
    left_out = {
        "optimizer._target_=evil.Adam": "optimizer._target_",
        "+optimizer._partial_=true": "optimizer._partial_",
        "optimizer={_target_:evil.Adam}": "optimizer",
        "optimizer=../../evil": "optimizer",
        "optimizer=evil": "optimizer",
        "scores.clip_model='hf-hub:evil/model'": "scores.clip_model",
        "scores.pose_model='/x.task'": "scores.pose_model",
        "network.conv_rank=${oc.env:SECRET}": "network.conv_rank",
    }
    for override in accepted:
        retrain = retrain_command(replace(records[0], overrides=[override]))
        assert len(shlex.split(retrain.command)) == 4, override
        assert not retrain.omitted
    old = retrain_command(replace(records[0], overrides=["training.oom=adapt", "policy=last"]))
    assert old.command == "python -m sweeper training.on_oom=degrade"
    retrain = retrain_command(replace(records[0], overrides=[*accepted, *dropped]))
    assert shlex.split(retrain.command) == [
        "python", "-m", "sweeper", "network.rank=4", "data.path=/my pictures/it's",
        "data.trigger=sks $x", *accepted[3:],
    ]  # fmt: skip
    for override, name in left_out.items():
        retrain = retrain_command(replace(records[0], overrides=[override]))
        assert retrain == ("python -m sweeper", [name]), override


def flatten(tokens: list[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from flatten(token.children or [])


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_description_has_no_markdown_of_texts(text: str, records: list[TrialRecord]) -> None:
    markdown = MarkdownIt("commonmark").enable("table")
    entries = ranked(records, text)
    page = describe_study(entries)
    kinds = [token.type for token in flatten(markdown.parse(page))]
    plain = describe_study(ranked(records, "xyz"))
    assert kinds == [token.type for token in flatten(markdown.parse(plain))]
    assert control_characters(page) == []
    note = _run_description(entries[0].record, text)
    tokens = [*flatten(markdown.parse(note))]
    assert not {"html_inline", "html_block", "link_open", "image"} & {t.type for t in tokens}
    assert "http:" not in note.replace(f"={text}", "").replace(f"a.{text}", "")
    if text and "\n" not in text:
        assert printable(f"a.{text}={text}").strip() in [t.content for t in tokens]


@pytest.mark.parametrize("text", [*TEXTS.values(), "ö" * 100_000], ids=[*TEXTS, "long"])
@pytest.mark.filterwarnings("error")
def test_plots_and_sheets_accept_hostile_texts(
    text: str, records: list[TrialRecord], tmp_path: Path
) -> None:
    filled = [fill_with_text(record, text) for record in records]
    best, policy = filled[0], PolicyConfig(max={text or "copying": 0.5, "copying": 0.1})
    draw_overview(tmp_path / "a.png", filled, best, best.scorecards[0], policy)
    pixels = torch.zeros(3, 8, 8)
    sheet = data_sheet([(pixels, text), (pixels, text * 3)], [(pixels, text)])
    assert sheet.height < 1000
    cell = Cell(Image.new("RGB", (8, 8)), text, "fresh 0")
    save_sheet(_page([Section(text, [cell], 3)]), tmp_path / "sheet.png")
    assert read_sheet(tmp_path / "sheet.png")["fresh 0"].label in (text, text[:2000])
    epoch_grid({1: tmp_path / "sheet.png"}, 1, unit=text or "epoch")


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.filterwarnings("error::UserWarning")
def test_search_plots_accept_hostile_names(text: str) -> None:
    study = optuna.create_study(direction="maximize")
    for number, choice in enumerate((text, "b", f"{text}c", "b")):
        study.add_trial(optuna.create_trial(
            params={f"a.{text}": choice, "optimizer.lr": 10.0**-number, "b.same": 8},
            distributions={
                f"a.{text}": CategoricalDistribution((text, "b", f"{text}c")),
                "optimizer.lr": FloatDistribution(1e-4, 1, log=True),
                "b.same": CategoricalDistribution((8,)),
            },
            value=number / 4,
        ))  # fmt: skip
    page = str(_parallel_chart(study))
    text_of_page = "".join(PageParser(page).texts)
    assert "mathdefault" not in text_of_page, "powers of ten on an axis must not use TeX"
    for word in (text, short_key(f"a.{text}")):
        assert printable(word).strip() in text_of_page
    assert "same" not in text_of_page, "a setting that all trials share needs no axis"


@pytest.mark.parametrize("caption", ["a" * 1_000_000, "- " * 500_000, "\x00" * 1_000_000])
def test_long_captions_are_drawn_quickly(caption: str) -> None:
    before = time.monotonic()
    data_sheet([(torch.zeros(3, 8, 8), caption)] * 20, [])
    assert time.monotonic() - before < 5


def test_hostile_page_in_a_browser(
    swept: Swept,  # noqa: F811
    records: list[TrialRecord],
    browser: Chrome,
    tmp_path: Path,
) -> None:
    """Only the script of the page runs, and it sorts the tables."""
    entries = ranked(records, MARKUP)
    file = tmp_path / "report.html"
    file.write_text(render(swept.study, entries, POLICY), encoding="utf-8")
    page_text = open_report(browser, file)
    assert MARKUP in page_text
    assert "PWNED" not in browser.title
    for button in browser.find_elements(By.CSS_SELECTOR, "table.sortable thead button"):
        button.click()
        heading = button.find_element(By.XPATH, "..")
        assert heading.get_attribute("aria-sort") == "ascending"
    script = "const s = document.createElement('script'); s.textContent = 'document.title = 1';"
    browser.execute_script(f"{script} document.body.append(s)")
    assert browser.title != "1", "the content security policy must block other scripts"
    browser.get_log("browser")
    copied = browser.execute_script(
        "return [...document.querySelectorAll('.copy-text')].map(b => "
        "[b.parentElement.querySelector('code').textContent, "
        "b.parentElement.querySelector('code').innerText])"
    )
    assert copied
    assert all(text == shown for text, shown in copied)


def test_hostile_texts_do_not_change_the_selection(records: list[TrialRecord]) -> None:
    for record in records:
        cards = fill_with_text(record, MARKUP).scorecards
        assert (
            select(cards, POLICY).scorecard.epoch
            == select(record.scorecards, POLICY).scorecard.epoch
        )
