"""Fixtures: tiny models of each family with random weights, image folders, a browser."""

from __future__ import annotations

import train  # noqa: F401  # isort: skip  # before torch: sets how OpenMP's threads wait

import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from train.config.schema import BaseConfig, DataConfig
from train.data.dataset import Dataset, load_dataset
from train.files import permissions
from train.models.base_model import BaseModel, load_base

# several processes share the tests and the cores; child processes inherit this
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(autouse=True)
def isolated_tracking_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Isolates tests from each other: MLflow keeps the last store in the environment."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # restores the variable after the test
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setenv(permissions.ENV_VARIABLE, "{}")  # no allowed paths or classes


@pytest.fixture(autouse=True)
def isolated_log_level() -> Iterator[None]:
    """Restores the log level, which commands change for the whole process."""
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    tokenizer = _tokenizer(folder)
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=32,
        attention_head_dim=8, norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    StableDiffusionPipeline(
        vae=_vae(), text_encoder=CLIPTextModel(_text(tokenizer)), tokenizer=tokenizer, unet=unet,
        scheduler=DDIMScheduler(clip_sample=False), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def v2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like Stable Diffusion 2.1: linear projections, v-prediction."""
    folder = tmp_path_factory.mktemp("v2")
    torch.manual_seed(0)
    tokenizer = _tokenizer(folder)
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=32,
        attention_head_dim=(2, 4), norm_num_groups=8, use_linear_projection=True,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    StableDiffusionPipeline(
        vae=_vae(), text_encoder=CLIPTextModel(_text(tokenizer, hidden_act="gelu")),
        tokenizer=tokenizer, unet=unet,
        scheduler=DDIMScheduler(clip_sample=False, prediction_type="v_prediction"),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def xl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like SDXL: block types, two text encoders, pooled text embeddings, size conditioning."""
    folder = tmp_path_factory.mktemp("xl")
    torch.manual_seed(0)
    first, second = _tokenizer(folder), _tokenizer(folder, pad_token=",</w>")
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(16, 32, 32), layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2), attention_head_dim=(2, 4, 4),
        cross_attention_dim=32 + 48, norm_num_groups=8, use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 24,
    )  # fmt: skip
    pooled = _text(second, hidden_size=48, hidden_act="gelu", projection_dim=24)
    StableDiffusionXLPipeline(
        vae=_vae(scaling_factor=0.13025), text_encoder=CLIPTextModel(_text(first)),
        text_encoder_2=CLIPTextModelWithProjection(pooled), tokenizer=first, tokenizer_2=second,
        unet=unet, scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear"),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def _vae(**options: float) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(16, 16), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=8, **options,
    )  # fmt: skip


def _text(tokenizer: CLIPTokenizer, **options: int | str) -> CLIPTextConfig:
    size = len(tokenizer)
    return CLIPTextConfig(
        vocab_size=size, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, bos_token_id=size - 2, eos_token_id=size - 1,
        **{"hidden_size": 32, **options},
    )  # fmt: skip


def _tokenizer(folder: Path, **options: str) -> CLIPTokenizer:
    letters = "abcdefghijklmnopqrstuvwxyz,"
    tokens = [t for letter in letters for t in (letter, f"{letter}</w>")]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16, **options
    )


@pytest.fixture(scope="session")
def base(base_folder: Path) -> BaseModel:
    return load_base(BaseConfig(path=str(base_folder), device="cpu"))


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven images of different sizes, every second one with a caption."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for i in range(7):
        pixels = random.integers(0, 255, (60 + i, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.jpg")
        if i % 2:
            (folder / f"{i}.txt").write_text("a photo of sks puppet\n")
    return folder


@pytest.fixture(scope="session")
def dataset(image_folder: Path) -> Dataset:
    return load_dataset(DataConfig(path=str(image_folder)))


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images of three shapes, whose captions have several tags."""
    folder = tmp_path_factory.mktemp("shapes")
    random = np.random.default_rng(1)
    for i, size in enumerate([(60, 40), (40, 60), (50, 50), (62, 40), (40, 58)]):
        pixels = random.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("sks puppet, a, b, c, d")
    return folder


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """A headless Chromium shared by the tests of pages.

    `get_log("browser")` returns console messages since the last call, `get_log("performance")`
    the requests.
    """
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip(
            "chromium and chromedriver are not installed (Debian: chromium, chromium-driver)"
        )
    options = ChromeOptions()
    options.binary_location = program
    for flag in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",  # too small in containers
        "disable-background-networking",
        "window-size=1280,900",
        f"user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = Chrome(options=options, service=Service(driver))
    yield chrome
    chrome.quit()
