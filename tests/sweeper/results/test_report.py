"""The report in a real browser: of a finished sweep, and of unusual studies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from mlflow import MlflowClient
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By

from evaluate.config import SCORES, PolicyConfig
from evaluate.prompts.probe_set import load_probe_set
from evaluate.scorecard import Estimate
from sweeper.commands.report import main
from sweeper.config import OBJECTIVES, ReportConfig
from sweeper.results.checkpoint_files import PROBES_FILE, REPORT_FILE
from sweeper.results.ranking import rank_trials
from sweeper.results.report.page import write_report
from sweeper.results.report.tables import SCORE_TITLES
from sweeper.study.storage import JOURNAL_FILE, NO_PRUNER, open_study
from sweeper.tracking.trial_record import FAILED, TrialRecord, load_record, load_records
from tests.sweeper.conftest import Swept, run_module

PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
MAX_BYTES = 5_000_000  # bytes of a page


@pytest.fixture
def phone(browser: Chrome) -> Iterator[Chrome]:
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    yield browser
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def open_report(browser: Chrome, file: Path) -> str:
    """Opens a page from its file, and returns its text. Checks that it loads nothing else, logs
    no errors, and is accessible."""
    for log in ("browser", "performance"):
        browser.get_log(log)  # clears the logs of the previous page
    browser.get(file.as_uri())
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [e["params"]["request"]["url"] for e in events
             if e["method"] == "Network.requestWillBeSent"
             and e["params"]["documentURL"] == file.as_uri()]  # fmt: skip
    assert {url for url in requests if not url.startswith("data:")} == {file.as_uri()}
    images = browser.find_elements(By.TAG_NAME, "img")
    assert all(image.get_attribute("alt") for image in images)
    assert all(image.get_property("naturalWidth") for image in images)
    charts = browser.find_elements(By.CSS_SELECTOR, "figure svg")
    assert all(chart.get_attribute("aria-label") for chart in charts)
    levels = [int(h.tag_name[1]) for h in browser.find_elements(By.CSS_SELECTOR, "h1,h2,h3,h4")]
    assert levels[0] == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))
    return str(browser.find_element(By.TAG_NAME, "body").text)


def trial_numbers(browser: Chrome) -> list[str]:
    """The trial numbers in the table, from top to bottom."""
    rows = browser.find_elements(By.CSS_SELECTOR, "table.sortable tbody tr")
    return [str(row.get_attribute("id")).removeprefix("trial-") for row in rows]


def example_prompts(probes: Path) -> list[str]:
    """A prompt with its place, as the report writes it for a web UI and for diffusers."""
    prompt = next(probe.prompt for probe in load_probe_set(str(probes)).probes)
    return [f"{prompt} <lora:small:1>", f'prompt = "{prompt}"']


def test_every_score_has_a_title() -> None:
    assert SCORE_TITLES.keys() == set(SCORES), "the report would leave a score out"


def test_report_of_a_finished_sweep(swept: Swept, browser: Chrome) -> None:
    result = json.loads((swept.study / "result.json").read_text())
    text = open_report(browser, swept.study / REPORT_FILE)
    assert (swept.study / REPORT_FILE).stat().st_size < MAX_BYTES
    for sentence in result["reasons"]:
        assert sentence in text
    for text_part in ("What it was trained on", "Pareto front", "The best trials, epoch by epoch",
                 "Diagnosis", "models/loras/small.safetensors", "load_lora_weights",
                 *example_prompts(swept.study / PROBES_FILE),
                 f"python -m sweeper.reproduce run_id={result['run_id']}",
                 "python -m sweeper.reproduce lora="):  # fmt: skip
        assert text_part in text
    assert len(browser.find_elements(By.CSS_SELECTOR, ".tile.selected img")) >= 4
    dots = browser.find_elements(By.CSS_SELECTOR, "#checkpoints svg title")
    assert len(dots) == sum(trial["epochs"] for trial in result["trials"])
    client = MlflowClient(f"sqlite:///{swept.root}/mlflow.db")
    experiment = client.get_experiment_by_name("small")
    assert experiment
    parent = client.search_runs([experiment.experiment_id], "run_name = 'sweep small'")[0]
    assert REPORT_FILE in {file.path for file in client.list_artifacts(parent.info.run_id)}


def test_table_of_trials_is_sorted_by_mouse_and_keyboard(swept: Swept, browser: Chrome) -> None:
    open_report(browser, swept.study / REPORT_FILE)
    ranks = [str(r.number) for r in sorted(load_records(swept.study),
                                           key=lambda r: r.params["network.rank"])]  # fmt: skip
    buttons = browser.find_elements(By.CSS_SELECTOR, "table.sortable thead button")
    rank = next(button for button in buttons if button.text.startswith("rank"))
    heading = rank.find_element(By.XPATH, "..")
    rank.click()
    assert (trial_numbers(browser), heading.get_attribute("aria-sort")) == (ranks, "ascending")
    rank.send_keys(Keys.ENTER)
    assert (trial_numbers(browser), heading.get_attribute("aria-sort")) == (
        ranks[::-1],
        "descending",
    )
    buttons[0].send_keys(Keys.SPACE)
    assert trial_numbers(browser) == sorted(ranks)
    assert heading.get_attribute("aria-sort") is None


def test_dark_and_light_are_both_legible(swept: Swept, browser: Chrome) -> None:
    file = swept.study / REPORT_FILE
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        open_report(browser, file)
        page_background = browser.find_element(By.TAG_NAME, "body").value_of_css_property(
            "background-color"
        )
        selectors = ["body", ".facts", "nav a", "td", "small", "summary", ".remedy", ".badge",
                 "pre code", ".chart text", "th button"]  # fmt: skip
        for selector in selectors:
            element = browser.find_element(By.CSS_SELECTOR, selector)
            background = element.value_of_css_property("background-color") if selector == ".badge" \
                else page_background  # fmt: skip
            css_property = "fill" if selector.endswith("text") else "color"
            assert contrast(element.value_of_css_property(css_property), background) >= 4.5, (
                scheme,
                selector,
            )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def contrast(first: str, second: str) -> float:
    """The WCAG 2 contrast ratio (1 to 21) of two CSS colors."""

    def luminance(color: str) -> float:
        parts = [float(v) / 255 for v in color[color.index("(") + 1 : -1].split(",")[:3]]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def nothing_is_feasible(study: Path, records: list[TrialRecord]) -> PolicyConfig:
    return PolicyConfig(max={"pose_memorization": -1.0})


def all_trials_failed(study: Path, records: list[TrialRecord]) -> PolicyConfig:
    for record in records:
        record.state, record.reason, record.epochs = FAILED, "<b>no memory</b>", []
    return PolicyConfig()


def one_trial_was_refused(study: Path, records: list[TrialRecord]) -> PolicyConfig:
    refused = TrialRecord(records[0].folder, "small", 7, {}, [], {"network.rank": 0}, {})
    refused.state, refused.reason = FAILED, "network.rank: 0 must be 1 or more"
    records.insert(0, refused)
    return PolicyConfig()


def one_trial_of_one_epoch(study: Path, records: list[TrialRecord]) -> PolicyConfig:
    del records[1:], records[0].epochs[1:]
    return PolicyConfig()


def no_pose_is_detected(study: Path, records: list[TrialRecord]) -> PolicyConfig:
    for epoch in records[0].epochs + records[1].epochs:
        scores = epoch.scorecard.scores
        for name in ("pose_memorization", "pose_diversity", "detection_rate", "outfit_leak"):
            scores.pop(name, None)
        epoch.scorecard.notes = ["There is no body: layouts are compared."]
    return PolicyConfig(max={"copying": 1.0})


def all_images_are_missing(study: Path, records: list[TrialRecord]) -> PolicyConfig:
    shutil.rmtree(study / "trials")
    (study / "data.png").unlink()
    return PolicyConfig()


def noise(study: Path, records: list[TrialRecord]) -> PolicyConfig:
    """All but the best are noise that counts as over a limit, and the probe set is lost."""
    (study / PROBES_FILE).unlink()
    for number, epoch in enumerate(records[0].epochs + records[1].epochs):
        scores = epoch.scorecard.scores
        for name in scores:
            scores[name] = Estimate(0.0, 0.0, 0.0) if number else Estimate(0.9, 0.9, 0.9)
        scores["detection_rate"] = Estimate(1.0, 1.0, 1.0)
        scores["pose_memorization"] = Estimate(*[0.9 if number else 0.0] * 3)
    return PolicyConfig(max={"pose_memorization": 0.35})


def over_a_limit_at_most(study: Path, records: list[TrialRecord]) -> PolicyConfig:
    """The later epochs may be over a limit, but probably are not."""
    for epoch in records[0].epochs + records[1].epochs:
        over = 0.5 if epoch.scorecard.epoch > 1 else 0.1
        epoch.scorecard.scores["pose_memorization"] = Estimate(0.05, 0.0, over)
    return PolicyConfig(max={"pose_memorization": 0.35})


def two_objectives(study: Path, records: list[TrialRecord]) -> PolicyConfig:
    """A study with two objectives and enough trials for Optuna's analysis."""
    (study / JOURNAL_FILE).unlink()
    optuna = open_study(study, NO_PRUNER, None, OBJECTIVES["pareto"])
    for rank in (2, 4, 8, 16, 32):
        trial = optuna.ask()
        trial.suggest_float("optimizer.lr", 1e-3, 1e-2, log=True)
        trial.suggest_categorical("scheduler", ["constant"])
        trial.suggest_categorical("training.caption_dropout", [0, 0.1])  # a long name
        optuna.tell(trial, (trial.suggest_int("network.rank", rank, rank) / 32, 0.1))
    return PolicyConfig()


CASES: dict[Callable[[Path, list[TrialRecord]], PolicyConfig], tuple[str, ...]] = {
    nothing_is_feasible: (
        "Use with care: trial",
        "no checkpoint of any trial is within all limits",
        "What overfitting looks like",
    ),
    all_trials_failed: ("There is no checkpoint to keep", "Trials 0, 1: <b>no memory</b>."),
    one_trial_was_refused: ("Keep trial", "Trial 7: network.rank: 0 must be 1 or more."),
    one_trial_of_one_epoch: ("Keep trial 0", "No other epoch of this trial was scored."),
    no_pose_is_detected: ("Keep trial", "likeness"),
    all_images_are_missing: ("not in this study's data sheet", "no longer next to this page"),
    two_objectives: (
        "Pareto front: no other trial is better in both objectives",
        "Combinations of settings",
        "lr",
    ),
    over_a_limit_at_most: ("Keep trial",),
    noise: (
        "Keep trial",
        "the images show neither the subject nor what the prompts ask for",
        "a photo of sks puppet <lora:small:1>",
    ),
}


@pytest.mark.parametrize("change", CASES, ids=lambda change: change.__name__)
def test_report_of_unusual_studies_on_a_phone(
    change: Callable[[Path, list[TrialRecord]], PolicyConfig],
    swept: Swept,
    tmp_path: Path,
    phone: Chrome,
) -> None:
    study = tmp_path / "small"
    shutil.copytree(swept.study, study)
    records = [load_record(folder) for folder in sorted((study / "trials").iterdir())]
    policy = change(study, records)
    text = open_report(
        phone, write_report(study, rank_trials(records, policy, lambda r: ""), policy)
    )
    for words in CASES[change]:
        assert words in text
    if change in (noise, over_a_limit_at_most):
        assert "What overfitting looks like" not in text
    if change is two_objectives:  # a setting with one value cannot have mattered
        names = phone.find_elements(By.CSS_SELECTOR, "dl.importance dt")
        assert sorted(name.text for name in names) == ["caption_dropout", "lr"]
        axes = phone.find_elements(By.CSS_SELECTOR, ".chart.wide svg text")
        labels = [axis.get_attribute("textContent") for axis in axes]
        assert {"fidelity", "lr", "rank", "caption_dropout"} <= {*labels}
    phone.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
    inner, page = phone.execute_script("return [innerWidth, document.documentElement.scrollWidth]")
    assert (inner, page) == (390, 390)


def test_command_rewrites_the_report(swept: Swept) -> None:
    file = swept.study / REPORT_FILE
    before = file.read_bytes()
    file.write_text("gone")
    main(ReportConfig(study="small", root=str(swept.root)))
    assert file.read_bytes() == before  # the same records give the same page
    code, output = run_module("sweeper.report", "study=smal", f"root={swept.root}")
    assert (code, output.count("\n")) == (1, 1), output
    assert "did you mean small" in output


def test_table_of_trials_fits_on_a_desktop_screen(
    swept: Swept, tmp_path: Path, browser: Chrome
) -> None:
    """With six searched settings and the longest reason; on a phone the table scrolls."""
    study = tmp_path / "small"
    shutil.copytree(swept.study, study)
    records = [load_record(folder) for folder in sorted((study / "trials").iterdir())]
    for number, record in enumerate(records):
        record.params |= {"optimizer.lr": 0.0023 + number, "network.alpha": number,
                          "network.conv_rank": number, "training.text_encoder_lr": 1e-4 * number,
                          "scheduler": ("constant", "cosine_with_restarts")[number]}  # fmt: skip
        record.reason = "memorized: pose_memorization is above its limit of 0.35 (at least 0.43)"
    for epoch in records[1].epochs:
        epoch.scorecard.scores, epoch.scorecard.failure = {}, "its images are not finite"
    policy = PolicyConfig()
    file = write_report(study, rank_trials(records, policy, lambda r: ""), policy)
    desk = {"width": 1200, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", desk)
    try:
        open_report(browser, file)
        visible_width, table_width = browser.execute_script(
            "const s = document.querySelector('#trials .scroll');"
            "return [s.clientWidth, s.scrollWidth]"
        )
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert table_width <= visible_width
    assert "its images are not finite" in file.read_text()
