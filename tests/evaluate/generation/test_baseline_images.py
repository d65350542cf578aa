"""The cache of baseline images and of scores depends on everything that determines them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from evaluate.checkpoints.checkpoint_checks import mismatch_warnings
from evaluate.config import ProbesConfig
from evaluate.generation.baseline_images import BaselineImages
from evaluate.prompts.probe_set import Probe
from evaluate.prompts.roles import FRESH
from evaluate.score_cache import ScoreCache
from evaluate.scorecard import Estimate, Scorecard
from train.config.schema import BaseConfig, DataConfig
from train.models.base_model import BaseModel, load_base

PROBES = [Probe(prompt="sks cat", base_prompt="cat", seed=1, role=FRESH, asked={})]
QUICK = ProbesConfig(steps=1)


@pytest.fixture
def config(base_folder: Path) -> BaseConfig:
    return BaseConfig(path=str(base_folder), device="cpu")


def with_scheduler_config(base: BaseModel, **changes: object) -> BaseModel:
    """The base as if its folder had another scheduler_config.json."""
    base.noise_scheduler.register_to_config(**changes)
    return base


def bases(config: BaseConfig) -> dict[str, BaseModel]:
    def fresh(**changes: object) -> BaseModel:
        load_base.__globals__["_load"].cache_clear()
        return load_base(replace(config, **changes))  # type: ignore[arg-type]

    return {
        "plain": fresh(),
        "clip_skip": fresh(clip_skip=2),
        "prediction": fresh(prediction_type="v_prediction"),
        "precision": fresh(precision="bf16"),
        # with epsilon the first step of zero SNR would divide by zero
        "zero SNR": with_scheduler_config(
            fresh(prediction_type="v_prediction"), rescale_betas_zero_snr=True
        ),
        "betas": with_scheduler_config(fresh(), beta_schedule="scaled_linear"),
        "spacing": with_scheduler_config(fresh(), timestep_spacing="trailing"),
    }


def test_baseline_images_are_cached_by_sampling_settings(
    config: BaseConfig, tmp_path: Path
) -> None:
    """For example after a wrong prediction type was corrected."""
    sampled = {}
    for number, (name, base) in enumerate(bases(config).items(), start=1):
        sampled[name] = BaselineImages(base, 16, QUICK, tmp_path).generate(PROBES)
        assert len(list(tmp_path.glob("base-*.safetensors"))) == number, name
    for name in ("clip_skip", "prediction", "zero SNR", "betas"):
        other = "prediction" if name == "zero SNR" else "plain"
        assert not torch.equal(sampled[name], sampled[other]), name
    before = sorted(file.name for file in tmp_path.glob("base-*.safetensors"))
    repeated = bases(config)["prediction"]
    assert torch.equal(
        BaselineImages(repeated, 16, QUICK, tmp_path).generate(PROBES), sampled["prediction"]
    )
    for settings in (ProbesConfig(steps=2), ProbesConfig(steps=1, guidance=2.0)):
        BaselineImages(repeated, 16, settings, tmp_path).generate(PROBES)
    BaselineImages(repeated, 32, QUICK, tmp_path).generate(PROBES)
    assert len(list(tmp_path.glob("base-*.safetensors"))) == len(before) + 3


def test_damaged_baseline_images_are_regenerated(base: BaseModel, tmp_path: Path) -> None:
    baseline = BaselineImages(base, 16, QUICK, tmp_path)
    sampled = baseline.generate(PROBES)
    (file,) = tmp_path.glob("base-*.safetensors")
    for content in (b"", file.read_bytes()[:-5]):
        file.write_bytes(content)
        assert torch.equal(baseline.generate(PROBES), sampled)


def test_sdxl_has_no_clip_skip(xl_folder: Path) -> None:
    config = BaseConfig(path=str(xl_folder), device="cpu")
    plain = load_base(config).image_fingerprint
    assert load_base(replace(config, clip_skip=2)).image_fingerprint == plain


def card(file: Path) -> Scorecard:
    return Scorecard(file, 1, {"copying": Estimate(0.5, 0.4, 0.6)})


def test_cached_scores_depend_on_the_strength(tmp_path: Path) -> None:
    """The weights are the same; the settings next to them were corrected."""
    file, settings = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    save_file({"base_model.model.conv_in.lora_A.weight": torch.ones(2, 4, 3, 3)}, file)
    settings.write_text(json.dumps({"lora_alpha": 8}))
    cache = ScoreCache(tmp_path, {"data": "1"})
    cache.add(card(file))
    assert ScoreCache(tmp_path, {"data": "1"}).find(file)
    assert not ScoreCache(tmp_path, {"data": "2"}).find(file)
    settings.write_text(json.dumps({"lora_alpha": 100}))
    assert not ScoreCache(tmp_path, {"data": "1"}).find(file)


@pytest.mark.parametrize(
    "content",
    ["", "[", "[]", "null", '{"about": {"data": "1"}}', '{"about": {"data": "1"}, "cards": []}',
     "[" * 9000],
)  # fmt: skip
def test_damaged_score_cache_is_reset(tmp_path: Path, content: str) -> None:
    file = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(1)}, file)
    (tmp_path / "scorecards.json").write_text(content)
    cache = ScoreCache(tmp_path, {"data": "1"})
    assert cache.find(file) is None
    cache.add(card(file))
    assert ScoreCache(tmp_path, {"data": "1"}).find(file) == card(file)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"ss_clip_skip": "2"}, "clip_skip 2; they are scored with 1 (base.clip_skip=2 scores"),
        ({"modelspec.encoder_layer": "2"}, "clip_skip 2"),
        ({"ss_clip_skip": "None"}, ""),
        ({"ss_clip_skip": "1"}, ""),
        ({"ss_v_parameterization": "True"}, "base.prediction_type=v_prediction"),
        ({"ss_base_model_version": "sd_v1_v"}, "base.prediction_type=v_prediction"),
        ({"modelspec.prediction_type": "v"}, "prediction type v_prediction"),
        ({"modelspec.prediction_type": "epsilon"}, ""),
        ({"ss_zero_terminal_snr": "True"}, "zero terminal SNR True; they are scored with False"),
        ({"ss_zero_terminal_snr": "False"}, ""),
        ({"ss_base_model_version": "sd_v2"}, "base model sd_v2"),
        ({"ss_resolution": "(768, 512)"}, "data.resolution=624"),
        ({"ss_resolution": "512"}, ""),
        ({"ss_resolution": "(512, 512)"}, ""),
        ({"ss_resolution": "1024,1024"}, "data.resolution=1024"),
        ({"modelspec.trigger_phrase": "ohwx man"}, "data.trigger='ohwx man'"),
        ({}, ""),
    ],
)
def test_metadata_mismatches_are_reported(
    base: BaseModel, metadata: dict[str, str], words: str
) -> None:
    lines = mismatch_warnings([metadata, metadata, {}], base, DataConfig(trigger="sks person"))
    assert len(lines) == bool(words)
    if words:
        assert words in lines[0]
        assert lines[0].startswith("2 of 3 files")
