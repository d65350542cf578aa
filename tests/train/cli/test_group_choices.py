"""The groups `base` and `data`: which option is selected, and what it sets."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from evaluate.config import EvaluateConfig
from sweeper.config import SweepConfig, check_sweep, default_study_name
from sweeper.reproduction.config import ReproduceConfig, check_reproduce
from train.cli import local_settings
from train.cli.compose import settings
from train.cli.group_choices import base_option, with_group_choices
from train.cli.preflight import preflight
from train.config.schema import EMBEDDED, TrainConfig
from train.errors import ConfigError

MODEL = "base.path=/my/model.safetensors"
IMAGES = "data.path=/my/pictures"


@pytest.fixture
def sdxl(tmp_path: Path) -> Path:
    """The header of a single SDXL file, without its tensors."""
    key = b"conditioner.embedders.1.model.ln_final.bias"
    header = b'{"%s":{"dtype":"F16","shape":[0],"data_offsets":[0,0]}}' % key
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header)
    return file


def test_embedded_base_and_images_are_the_default() -> None:
    config = settings("sweep", SweepConfig)
    assert (config.base.path, config.data.path) == (EMBEDDED, EMBEDDED)
    assert (config.data.resolution, config.network.rank, config.optimizer["lr"]) == (64, 8, 6e-3)
    assert (config.probes.steps, config.scores.clip_model, config.cache) == (6, EMBEDDED, "memory")


def test_path_alone_selects_the_matching_settings(sdxl: Path) -> None:
    config = settings("sweep", SweepConfig, [MODEL, IMAGES])
    assert (config.data.resolution, config.network.rank, config.optimizer["lr"]) == (512, 32, 1e-4)
    assert (config.probes.steps, config.scores.clip_model) == (20, "ViT-L-14/openai")
    assert (config.data.trigger, config.base.precision, config.cache) == (None, "bf16", "disk")
    assert settings("sweep", SweepConfig, ["base=sd15", MODEL, IMAGES]) == config
    large = settings("sweep", SweepConfig, [f"base.path={sdxl}", IMAGES])
    assert large.data.resolution == 1024
    assert settings("evaluate", EvaluateConfig, [f"base.path={sdxl}"]).data.resolution == 1024


def test_base_option_of_a_path(sdxl: Path, tmp_path: Path) -> None:
    (tmp_path / "folder" / "text_encoder_2").mkdir(parents=True)
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    assert base_option(EMBEDDED) == EMBEDDED
    assert base_option(str(sdxl)) == "sdxl"
    assert base_option(str(tmp_path / "folder")) == "sdxl"
    assert base_option("stabilityai/stable-diffusion-xl-base-1.0") == "sdxl"
    for other in ("broken.safetensors", "", "gone.safetensors"):
        assert base_option(str(tmp_path / other)) == "sd15"
    assert base_option("runwayml/stable-diffusion-v1-5") == "sd15"
    assert base_option("//host/xl.safetensors") == "sd15"  # asking the host would log in there


@pytest.mark.parametrize(
    ("name", "trigger", "detector"),
    [
        ("puppets", "sks puppet", "puppets"),
        ("puppets_object", "sks lamp", "layout"),
        ("puppets_style", "sks drawing", "layout"),
    ],
)
def test_embedded_images_have_their_trigger_and_probes(
    name: str, trigger: str, detector: str
) -> None:
    for line in ([f"data={name}"], [f"data.path={name}"]):
        config = settings("sweep", SweepConfig, line)
        assert (config.data.path, config.data.trigger) == (name, trigger)
        assert (config.probes.attributes, config.scores.pose_detector) == (name, detector)
        assert settings("train", TrainConfig, line).data == config.data
        assert settings("evaluate", EvaluateConfig, line).data == config.data
        assert default_study_name(config) == name


def test_user_images_on_the_embedded_base_and_vice_versa() -> None:
    own = settings("train", TrainConfig, [IMAGES]).data
    assert (own.path, own.trigger, own.resolution) == ("/my/pictures", "sks puppet", 64)
    shipped = settings("train", TrainConfig, [MODEL]).data
    assert (shipped.path, shipped.trigger, shipped.resolution) == (EMBEDDED, "sks puppet", 512)
    listed = settings("train", TrainConfig, [MODEL, "data.dataset_config=/my/data.toml"]).data
    assert (listed.path, listed.trigger) == ("", None)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["base=sd15"], "base.path: say where the model is"),
        (["data=default"], "data.path: say where your images are"),
        (
            ["base=puppets", MODEL],
            "base: puppets does not go with base.path=/my/model.safetensors",
        ),
        (["base=sdxl", "base.path=puppets"], "base: sdxl does not go with base.path=puppets"),
        (["data=puppets", IMAGES], "data: puppets does not go with data.path=/my/pictures"),
        (
            ["data=puppets_style", "data.path=puppets"],
            "data: puppets_style does not go with data.path=puppets",
        ),
        (
            ["data=puppets_style", "data.dataset_config=/my/data.toml"],
            "data: puppets_style does not go with data.dataset_config=/my/data.toml",
        ),
        (
            ["data=default", "data.path=puppets_object"],
            "data: default does not go with data.path=puppets_object",
        ),
        (["base=sd3"], "base: 'sd3' is not one of"),
        (["data=puppets_object/"], "data: 'puppets_object/' is not one of default, puppets, "),
        (["data=nope/"], "data: 'nope/' is not one of"),
        (["data=/"], "data: '/' is not one of"),
        (["data="], "data: '' is not one of"),
    ],
)
def test_conflicting_groups_and_paths(line: list[str], words: str) -> None:
    with pytest.raises(SystemExit) as exit_info:
        preflight("sweep", line, SweepConfig, check_sweep)
    assert str(exit_info.value.code).replace("'", "").startswith(f"error: {words}".replace("'", ""))


def test_base_in_local_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"base": {"path": "/my/model.safetensors"}, "data": {"path": "/my/pictures"}}
    monkeypatch.setattr(local_settings, "read_local_settings", lambda conf: given)
    config = settings("train", TrainConfig)
    assert (config.base.path, config.data.resolution) == ("/my/model.safetensors", 512)
    assert (config.data.path, config.data.trigger) == ("/my/pictures", None)
    small = settings("train", TrainConfig, ["base=puppets", "data=puppets"])
    assert small == settings("train", TrainConfig, ["base.path=puppets", "data.path=puppets"])
    assert (small.base.path, small.data.path, small.data.resolution) == (EMBEDDED, EMBEDDED, 64)
    monkeypatch.setattr(local_settings, "read_local_settings", lambda conf: {})
    assert small == settings("train", TrainConfig)


def test_group_choices_are_made_once() -> None:
    line = with_group_choices([MODEL, IMAGES, "network.rank=4"])
    assert line == ["base=sd15", "data=default", MODEL, IMAGES, "network.rank=4"]
    assert with_group_choices(line) == line
    assert with_group_choices(["network.rank=4"]) == ["network.rank=4"]
    with pytest.raises(ConfigError):
        with_group_choices(["base=puppets", MODEL])


def test_command_without_groups_takes_only_the_paths() -> None:
    line = ["study=puppets", MODEL, IMAGES]
    quoted = [f"{key}='{value}'" for key, _, value in (word.partition("=") for word in line)]
    assert preflight("reproduce", line, ReproduceConfig, check_reproduce) == quoted
    places = settings("reproduce", ReproduceConfig, line).locations
    assert places == {"base.path": MODEL.split("=")[1], "data.path": IMAGES.split("=")[1]}
