"""MLflow's pages of a finished sweep, in a browser: the sweep, its trials, charts and images."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import pytest
from mlflow import MlflowClient
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.sweeper.conftest import LIMIT, Swept
from tests.sweeper.execution.test_workers import free_port, running

TRAINING = (
    "workflowType=machine_learning"  # as in `make ui`; otherwise MLflow shows its GenAI views
)
EXPAND = "[data-component-id*='runnamecellrenderer'][type='button']"  # the + before a run


@pytest.fixture(scope="module")
def page(swept: Swept) -> Iterator[str]:
    """The address of an MLflow server for the sweep's store."""
    port, store = free_port(), f"sqlite:///{swept.root}/mlflow.db"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
               "--workers", "1", "--backend-store-uri", store]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
        with running(command, port):
            yield f"http://127.0.0.1:{port}/#"


@pytest.fixture
def runs(swept: Swept) -> dict[str, str]:
    """The IDs of the sweep's runs by name, and of their experiment."""
    client = MlflowClient(f"sqlite:///{swept.root}/mlflow.db")
    experiment = client.get_experiment_by_name("small")
    assert experiment
    runs = client.search_runs([experiment.experiment_id])
    return {"experiment": str(experiment.experiment_id)} | {
        str(run.info.run_name): str(run.info.run_id) for run in runs
    }


def wait_for(browser: Chrome, what: str, condition: Callable[[], object]) -> None:
    WebDriverWait(browser, LIMIT, 0.3).until(lambda _: condition(), what)


def text_of(browser: Chrome) -> str:
    return browser.find_element(By.TAG_NAME, "body").text


def show(browser: Chrome, address: str, words: str) -> None:
    """Opens an address and waits until its page contains the words."""
    browser.get("about:blank")
    browser.get(address)
    wait_for(browser, words, lambda: words in text_of(browser))
    for button in browser.find_elements(By.CSS_SELECTOR, "button[aria-label='Close']"):
        if button.is_displayed():
            button.click()  # advertisements


def test_sweep_run_contains_its_trials(page: str, browser: Chrome, runs: dict[str, str]) -> None:
    show(browser, f"{page}/experiments/{runs['experiment']}/runs?{TRAINING}", "sweep small")
    assert "Keep trial" in text_of(browser), "the selected checkpoint is described above the runs"
    assert "trial 0" not in text_of(browser).split("Run Name")[1]
    browser.find_element(By.CSS_SELECTOR, EXPAND).click()
    wait_for(
        browser, "the trials", lambda: {"trial 0", "trial 1"} <= set(text_of(browser).split("\n"))
    )


def test_trial_page_has_grouped_charts_and_images(
    page: str, browser: Chrome, runs: dict[str, str]
) -> None:
    address = f"{page}/experiments/{runs['experiment']}/runs/{runs['trial 0']}"
    show(browser, f"{address}/model-metrics?{TRAINING}", "pictures\n(2)")
    text = text_of(browser)
    groups = ["pictures\n(2)", "scores\n(", "scores/bounds\n(", "train\n(2)"]
    places = [text.index(group) for group in groups]
    assert places == sorted(places)
    assert {"pictures/contact_sheet", "pictures/epochs"} <= set(text.split("\n"))
    plots = lambda: browser.find_elements(By.CSS_SELECTOR, ".js-plotly-plot .scatterlayer .point")  # noqa: E731
    wait_for(browser, "points in the charts", lambda: len(plots()) >= 2)
    sizes = "return [...document.images].map(i => [i.naturalWidth, i.naturalHeight].join('x'))"

    def pictures() -> int:
        return len({size for size in browser.execute_script(sizes) if size != "0x0"})

    wait_for(browser, "a contact sheet and the epochs", lambda: pictures() >= 2)


def test_sweep_page_has_data_plots_and_best_checkpoint(
    page: str, browser: Chrome, runs: dict[str, str]
) -> None:
    address = f"{page}/experiments/{runs['experiment']}/runs/{runs['sweep small']}"
    show(browser, f"{address}/model-metrics?{TRAINING}", "pictures/data_sheet")
    assert {"pictures/overview", "best_fidelity_by_trials"} <= set(text_of(browser).split("\n"))
    show(browser, f"{address}/artifacts?{TRAINING}", "best.safetensors")
    assert {"config.yaml", "data.txt", "overview.png", "probes.yaml", "result.json"} <= set(
        text_of(browser).split("\n")
    )
    show(browser, f"{address}?{TRAINING}", "Child runs")
    assert "Keep trial" in text_of(browser)
