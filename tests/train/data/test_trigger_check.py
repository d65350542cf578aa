"""The trigger: the demo has its own, which does not apply to other datasets."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from evaluate.config import EvaluateConfig, check_evaluate
from sweeper.config import SweepConfig, check_sweep
from tests.commands import LIMIT, Command
from train.cli.arguments import normalized
from train.cli.compose import settings
from train.config.schema import TrainConfig
from train.config.setting_kinds import kinds
from train.config_checks import check_train
from train.data.dataset import Dataset, load_dataset
from train.data.images.image import DataError
from train.errors import ConfigError

REAL = "base.path=/my/model.safetensors"


@pytest.fixture
def dogs(tmp_path: Path) -> Path:
    for number in range(5):
        Image.new("RGB", (40, 40), (40 * number, 90, 10)).save(tmp_path / f"{number}.png")
    return tmp_path


def loaded(*arguments: str) -> Dataset:
    config = settings("train", TrainConfig, normalized(arguments, kinds(TrainConfig)))
    check_train(config)
    return load_dataset(config.data)


def captioned(folder: Path, text: str) -> None:
    for image in folder.glob("*.png"):
        image.with_suffix(".txt").write_text(text)


def test_missing_captions_need_a_trigger(dogs: Path, base_folder: Path) -> None:
    arguments = [f"base.path={base_folder}", f"data.path={dogs}", f"output={dogs / 'out'}"]
    code, message = Command("train", *arguments).finish(LIMIT)
    assert code == 1
    assert message.splitlines()[-1].startswith("error: data.trigger: 5 of 5 images in ")
    with pytest.raises(DataError, match=r"'sks person', or data.trigger='' for empty captions"):
        loaded(REAL, f"data.path={dogs}")
    captions = {
        p.caption for p in loaded(REAL, f"data.path={dogs}", "data.trigger=sks dog").trained
    }
    assert captions == {"sks dog"}


def test_complete_captions_need_no_trigger(dogs: Path) -> None:
    captioned(dogs, "in the style of x, a dog")
    for more in ([], ["data.trigger="]):
        dataset = loaded(REAL, f"data.path={dogs}", *more)
        assert dataset.trigger == ""
        assert "trigger" not in dataset.report()


def test_empty_trigger_gives_empty_captions(dogs: Path) -> None:
    dataset = loaded(REAL, f"data.path={dogs}", "data.trigger=")
    assert {p.caption for p in dataset.trained} == {""}
    assert "have no caption and get an empty one" in dataset.report()
    dataset = loaded(REAL, f"data.path={dogs}", "data.trigger=sks dog", "data.class_words=")
    assert ({p.caption for p in dataset.trained}, dataset.trigger) == ({""}, "sks dog")


def test_regularization_images_need_captions_too(dogs: Path, tmp_path: Path) -> None:
    prior = tmp_path / "prior"
    prior.mkdir()
    Image.new("RGB", (40, 40), (1, 200, 10)).save(prior / "x.png")
    captioned(dogs, "sks dog")
    custom = [REAL, f"data.path={dogs}", f"data.regularization_path={prior}"]
    with pytest.raises(DataError, match=r"data.trigger: 1 of 1 image in prior"):
        loaded(*custom)
    assert {p.caption for p in loaded(*custom, "data.trigger=sks dog").regularization} == {"dog"}


def test_trigger_warning_names_the_word(dogs: Path) -> None:
    """On the embedded base, whose demo has a trigger."""
    message = loaded(f"data.path={dogs}").report()
    assert "5 of 5 images in " in message
    assert "have no caption and get the trigger 'sks puppet' (0.png, 1.png, 2.png, ...)" in message


def test_demo_images_have_a_trigger_on_any_base() -> None:
    assert loaded(REAL).trigger == loaded().trigger == "sks puppet"
    for given in ("data.dataset_config=set.toml", "data.path=/mine"):
        config = settings("train", TrainConfig, [REAL, given])
        assert config.data.trigger is None


@pytest.mark.parametrize("trigger", [[], ["data.trigger=''"], ["data.trigger='  '"]])
def test_scoring_needs_a_trigger(trigger: list[str]) -> None:
    custom = [REAL, "data.path=/mine", *trigger]
    with pytest.raises(ConfigError, match=r"^data.trigger: must name the subject"):
        check_sweep(settings("sweep", SweepConfig, custom))
    with pytest.raises(ConfigError, match=r"^data.trigger: must name the subject"):
        check_evaluate(settings("evaluate", EvaluateConfig, custom))
    check_train(settings("train", TrainConfig, custom))
    named = [REAL, "data.path=/mine", "data.trigger='sks dog'"]
    check_sweep(settings("sweep", SweepConfig, named))
    check_evaluate(settings("evaluate", EvaluateConfig, named))
