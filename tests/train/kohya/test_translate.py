"""kohya's config files: translated completely, repaired, and rejected if invalid."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from train.cli.arguments import normalized
from train.cli.compose import settings
from train.config.schema import TrainConfig
from train.config.setting_kinds import kinds
from train.config_checks import check_train
from train.data.dataset import load_dataset
from train.data.images.image import DataError
from train.data.reader import EMBEDDED_FOLDER
from train.errors import ConfigError
from train.files import permissions
from train.kohya.command_line import expand
from train.kohya.optimizer_names import KOHYA_OPTIMIZERS
from train.kohya.translate import translate
from train.kohya_toml.lenient_toml import read_toml

FULL = """
[model]
pretrained_model_name_or_path = "/models/my model.safetensors"
v_parameterization = true
clip_skip = 2
[data]
train_data_dir = "{folder}"
reg_data_dir = "/reg"
resolution = "512,768"
enable_bucket = true
min_bucket_reso = 320
bucket_no_upscale = true
caption_extension = ".txt"
shuffle_caption = true
keep_tokens = 1
flip_aug = true
cache_latents = true
cache_latents_to_disk = true
[network]
network_module = "networks.lora"
network_dim = 32
network_alpha = 16
network_args = ["conv_dim=4", "conv_alpha=2", "dropout=0.1"]
[optimizer]
optimizer_type = "pagedadamw8BIT"
optimizer_args = ["weight_decay=0.1", "betas=0.9,0.99"]
learning_rate = 1e-4
unet_lr = 2e-4
text_encoder_lr = 5e-5
lr_scheduler = "cosine_with_restarting"
lr_scheduler_num_cycles = 3
lr_warmup_steps = 0.1
max_grad_norm = 0
[training]
train_batch_size = 2
gradient_accumulation_steps = 4
max_train_epochs = 12
max_train_steps = 5000
save_every_n_epochs = 3
save_last_n_epochs = 4
seed = 42
gradient_checkpointing = true
mixed_precision = "fp16"
save_precision = "float"
min_snr_gamma = 5
noise_offset = 0.05
prior_loss_weight = 0.5
caption_dropout_rate = 0.1
mem_eff_attn = true
[files]
output_dir = "/out"
output_name = "null"
logging_dir = "logs"
max_data_loader_n_workers = 2
scale_weight_norms = 1.0
multires_noise_iterations = 0
"""
FULL_LINES = """
base.path=/models/my model.safetensors  base.precision=fp16  base.clip_skip=2
base.prediction_type=v_prediction  training.gradient_checkpointing=true  base.attention=sdpa
data.path={folder}  data.trigger=sks person  data.class_words=  data.regularization_path=/reg
data.caption_extension=.txt  data.repeats=1  data.validation_fraction=0.0
data.resolution=512  data.height=768  data.shuffle_caption=true  data.keep_tokens=1
data.flip=true  data.buckets=true  data.min_bucket=320  data.max_bucket=1024
data.bucket_step=64  data.bucket_upscale=false  data.resample_latents=false  cache=disk
network.rank=32  network.alpha=16  network.conv_rank=4  network.conv_alpha=2
network.dropout=0.1  network.text_encoder=true
optimizer=adamw8bit  optimizer._target_=bitsandbytes.optim.PagedAdamW8bit
++optimizer.weight_decay=0.1  ++optimizer.betas=[0.9,0.99]
scheduler=cosine_with_restarts  scheduler.warmup_ratio=0.1  scheduler.num_cycles=3
scheduler.power=1.0
training.epochs=12  training.save_every=3  training.save_last=4
training.batch_size=2  training.gradient_accumulation=4  training.seed=42
training.max_grad_norm=0  training.noise_offset=0.05  training.prior_loss_weight=0.5
training.caption_dropout=0.1  training.min_snr_gamma=5  training.save_precision=fp32
output=/out  name='null'  optimizer.lr=0.0002  training.text_encoder_lr=5e-05
"""


# as kohya's graphical interface writes one
INTERFACE = """
async_upload = true
bucket_no_upscale = true
bucket_reso_steps = 32
cache_latents = true
cache_latents_to_disk = true
caption_extension = ".txt"
clip_skip = 1
dynamo_backend = "no"
enable_bucket = true
epoch = 8
gradient_accumulation_steps = 1
gradient_checkpointing = true
huber_c = 0.1
huber_schedule = "snr"
huggingface_repo_id = ""
learning_rate = 0.00004
loss_type = "l2"
lr_scheduler = "constant"
lr_scheduler_args = []
lr_scheduler_num_cycles = 1
lr_scheduler_power = 1
max_bucket_reso = 2048
max_data_loader_n_workers = 0
max_grad_norm = 1
max_timestep = 1000
max_token_length = 75
max_train_steps = 1600
min_bucket_reso = 256
min_snr_gamma = 5
mixed_precision = "bf16"
network_alpha = 16
network_args = []
network_dim = 32
network_module = "networks.lora"
no_half_vae = true
noise_offset_type = "Original"
optimizer_args = []
optimizer_type = "AdamW8Bit"
output_dir = "/out"
output_name = "last"
pretrained_model_name_or_path = "stabilityai/stable-diffusion-xl-base-1.0"
prior_loss_weight = 1
resolution = "1024,1024"
sample_prompts = ""
sample_sampler = "euler_a"
save_every_n_epochs = 2
save_model_as = "safetensors"
save_precision = "bf16"
text_encoder_lr = 0.00004
train_batch_size = 2
train_data_dir = "/pictures"
training_comment = ""
unet_lr = 0.00004
"""


@pytest.fixture(autouse=True)
def named(tmp_path: Path) -> None:
    """The paths that the user has named, besides the folder of the config."""
    permissions.allow(["/models", "/reg", "/out", "/pictures", "/p", tmp_path])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("10_sks person", "notes"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
    return tmp_path / "pictures"


def write(folder: Path, text: str) -> Path:
    (folder / "config.toml").write_text(text, encoding="utf-8")
    return folder / "config.toml"


def composed(lines: list[str]) -> TrainConfig:
    """The settings of `python -m train` with these arguments."""
    return settings("train", TrainConfig, normalized(lines, kinds(TrainConfig)))


def translated(tmp_path: Path, text: str) -> dict[str, Any]:
    return translate(write(tmp_path, text)).settings


def test_full_config_is_translated_completely(tmp_path: Path, folder: Path) -> None:
    file = write(tmp_path, FULL.format(folder=folder))
    lines, notes = expand([f"kohya={file}"])
    expected = FULL_LINES.format(folder=folder).strip()
    assert lines == [line for row in expected.splitlines() for line in row.split("  ")]
    check_train(composed(lines))
    message = "\n".join(notes)
    assert "without effect here: logging_dir, max_data_loader_n_workers, multires_noise" in message
    assert "kohya's LoRA would differ: scale_weight_norms" in message
    assert "max_train_steps is ignored in favor of max_train_epochs" in message


def test_config_saved_by_kohyas_gui_is_translated(tmp_path: Path) -> None:
    model = "base.path=stabilityai/stable-diffusion-xl-base-1.0"
    file = write(tmp_path, INTERFACE)
    with pytest.raises(ConfigError, match=f"type {model}"):
        expand([f"kohya={file}"])
    lines, notes = expand([f"kohya={file}", model])
    config = composed(lines)
    check_train(config)
    assert (config.training.max_steps, config.training.min_snr_gamma) == (1600, 5)
    assert config.base.path == "stabilityai/stable-diffusion-xl-base-1.0"
    assert not any("not supported" in note for note in notes)
    ignored = next(note for note in notes if note.startswith("without effect here"))
    assert "noise_offset_type" in ignored


def test_kohyas_defaults_apply_to_missing_keys(tmp_path: Path) -> None:
    file = write(tmp_path, 'train_data_dir = "/p"\nresolution = 512\nnetwork_args = ["conv_dim=8"]')
    result = translate(file)
    expected = {
        "network.rank": 4, "network.alpha": 1, "network.conv_alpha": 1, "optimizer.lr": 2e-6,
        "training.max_steps": 1600, "training.batch_size": 1, "data.buckets": False,
        "data.caption_extension": ".caption", "base.precision": "fp32", "name": "last",
        "training.save_precision": "fp32", "network.text_encoder": True, "scheduler": "constant",
        "data.validation_fraction": 0.0, "optimizer": "adamw", "scheduler.num_cycles": 1,
    }  # fmt: skip
    assert {key: result.settings.get(key) for key in expected} == expected
    assert "training.epochs" not in result.settings
    message = next(note for note in result.notes if note.startswith("not in config.toml"))
    for words in ("network_alpha 1", "learning_rate 2e-06", "max_train_steps 1600"):
        assert words in message


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("network_dim = 8\nnetwork_alpha = 0", {"network.alpha": 8}),
        ('network_dim = "16"', {"network.rank": 16}),
        ("lr_warmup_steps = 100", {"scheduler.warmup_steps": 100, "scheduler.warmup_ratio": 0.0,
                                   "scheduler": "constant_with_warmup"}),
        ("use_8bit_adam = true", {"optimizer": "adamw8bit"}),
        ("xformers = true", {"base.attention": "xformers" if find_spec("xformers") else "sdpa"}),
        ('optimizer_type = "Lion"', {"optimizer": "lion", "++optimizer.weight_decay": 0.0}),
        ('optimizer_type = "prodigy"\nlearning_rate = 1\ntext_encoder_lr = 0.5\n'
         'optimizer_args = "d_coef=2 use_bias_correction=True"',
         {"optimizer": "prodigy", "++optimizer.d_coef": 2, "optimizer.lr": 1,
          "++optimizer.use_bias_correction": True, "training.text_encoder_lr": None}),
        ('optimizer_type = "DAdaptation"', {"optimizer": "dadaptation"}),
        ('optimizer_type = "adafactor"\noptimizer_args = ["relative_step=False"]',
         {"optimizer": "adafactor", "++optimizer.scale_parameter": True}),
        ('optimizer_type = "torch.optim.NAdam"\noptimizer_args = ["betas=0.9,0.98"]',
         {"optimizer._target_": "torch.optim.NAdam", "~optimizer.weight_decay": True,
          "~optimizer.betas": None, "++optimizer.betas": [0.9, 0.98]}),
        ("network_train_unet_only = true\nunet_lr = 1e-4",
         {"network.text_encoder": False, "optimizer.lr": 1e-4}),
        ("text_encoder_lr = 0\nlearning_rate = 1e-3", {"network.text_encoder": False}),
        ("color_aug = true\ncache_latents = false", {"cache": "off"}),
        ("max_train_epochs = 20\nsave_n_epoch_ratio = 5", {"training.save_every": 4}),
        ("min_snr_gamma = 0", {"training.min_snr_gamma": None}),
        ("min_bucket_reso = 320\nbucket_no_upscale = true",  # for what a dataset config says
         {"data.buckets": False, "data.min_bucket": 320, "data.max_bucket": None,
          "data.bucket_upscale": False}),
        ("num_epochs = 7", {"training.epochs": 7, "training.max_steps": None}),
        ("epoch = 7", {"training.epochs": 7, "training.max_steps": None}),
        ("epoch = 1\nmax_train_steps = 1600",
         {"training.epochs": None, "training.max_steps": 1600}),
        ('network_weights = ""\nvae = ""', {"network.rank": 4}),
    ],
)  # fmt: skip
def test_single_keys(tmp_path: Path, line: str, expected: dict[str, Any]) -> None:
    result = translated(tmp_path, line)
    assert {key: result.get(key) for key in expected} == expected


@pytest.mark.parametrize("name", sorted(KOHYA_OPTIMIZERS))
def test_every_kohya_optimizer_can_be_built(tmp_path: Path, name: str) -> None:
    file = write(tmp_path, f'optimizer_type = "{name.upper()}"\nmax_train_epochs = 1')
    config = composed(expand([f"kohya={file}"])[0])
    check_train(config)
    assert config.optimizer["lr"] == 2e-6
    expected = {"adamw": None, "adamw8bit": 0.01}.get(KOHYA_OPTIMIZERS[name].group, 0.0)
    expected = 0.01 if name == "AdamW" else expected
    assert config.optimizer.get("weight_decay") == expected, "as the class that kohya takes"


def test_dataset_config_is_read_along_with_the_config(tmp_path: Path) -> None:
    data = tmp_path / "data.toml"
    data.write_text(
        "[[datasets]] resolution = 32 [[datasets.subsets]] num_repeats = 3 "
        f"class_tokens = “sks puppet doll” image_dir = “{EMBEDDED_FOLDER}”"
    )
    file = write(tmp_path, 'train_data_dir = "/gone"\ncaption_extension = "txt"\nresolution = 32')
    lines, notes = expand([f"kohya={file}", f"dataset_config={data}", "base.path=puppets"])
    assert "data.trigger=sks puppet doll" in lines
    assert any(note.startswith("train_data_dir is ignored") for note in notes)
    dataset = load_dataset(composed(lines).data)
    assert len(dataset.training) == 12
    assert "data.toml: repaired: typographic quotes, several pairs" in dataset.report()


@pytest.mark.parametrize(
    ("text", "batch", "sides"),
    [
        ("[[datasets]]\nbatch_size = 4\nresolution = [768, 512]", 4, (768, 512)),
        ("[general]\nbatch_size = 3\n[[datasets]]\n[[datasets]]\nbatch_size = 2", 3, (640, None)),
        ("[[datasets]]\nresolution = 512", 2, (512, None)),
        ("[[datasets]]\nresolution = 512\n[[datasets]]", 2, (640, None)),
    ],
)
def test_dataset_config_overrides_the_config(
    tmp_path: Path, text: str, batch: int, sides: tuple[int, int | None]
) -> None:
    (tmp_path / "data.toml").write_text(text)
    file = write(tmp_path, f'dataset_config = "{tmp_path / "data.toml"}"\nresolution = 640\n'
                           "train_batch_size = 2")  # fmt: skip
    result = translate(file)
    assert result.settings["training.batch_size"] == batch
    assert (result.settings["data.resolution"], result.settings.get("data.height")) == sides
    assert not any("train_batch_size" in note for note in result.notes)


def test_invalid_dataset_config_is_rejected_by_its_reader(tmp_path: Path) -> None:
    """The rest is translated nevertheless."""
    data = tmp_path / "data.toml"
    file = write(tmp_path, "resolution = 32")
    for text, message in (
        ('[[datasets]]\nsubsets = ["x"]', r"subsets\[0\]: must be a table"),
        ("[[datasets]]\nsubsets = 3", r"datasets\[0\].subsets: 3 must be list"),
    ):
        data.write_text(text)
        lines, _ = expand([f"kohya={file}", f"dataset_config={data}"])
        with pytest.raises(DataError, match=message):
            load_dataset(composed(lines).data)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("network_dimm = 32", "network_dimm; did you mean network_dim?"),
        ("[a]\nlearning_rat = 1\nkep_tokens = 1", "keep_tokens?"),
        ('optimizer_type = "AdamW8bt"', "did you mean AdamW8bit?"),
        ('lr_scheduler = "cosinus"', "did you mean cosine?"),
        ('network_module = "lycoris.kohya"', "network_module: lycoris.kohya is not supported"),
        ('network_weights = "a.safetensors"', "network_weights"),
        ("network_dim = 3.5", "network_dim must be a whole number, not 3.5"),
        ("network_dim = inf", "network_dim must be a whole number, not inf"),
        ("resolution = nan", "resolution must be a whole number, not nan"),
        ("lr_warmup_steps = inf", "lr_warmup_steps must be a whole number, not inf"),
        ('network_args = ["conv_dim=inf"]', "conv_dim must be a whole number, not 'inf'"),
        ('learning_rate = "fast"', "learning_rate must be a number, not 'fast'"),
        ('cache_latents = "maybe"', "cache_latents must be true or false"),
        ('mixed_precision = "fp8"', "mixed_precision: 'fp8' is not one of"),
        ("[[datasets]]\nresolution = 512", "give it as dataset_config="),
        ("network_dim = = 4", "is not TOML"),
    ],
)
def test_invalid_values_are_rejected_with_a_suggestion(
    tmp_path: Path, line: str, message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        translated(tmp_path, line)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_damage_from_web_pages_is_repaired(tmp_path: Path) -> None:
    text = """# don't touch = this
[network] network_dim = 32 network_alpha = 16  # a = b
optimizer_type = “AdamW8bit”, learning_rate = 1e–4; cache_latents = True
network_args = ["conv_dim=4", ‘conv_alpha=1’] seed = 4
train_data_dir = "C:\\Users\\me\\new"
output_name = "it’s “mine”" [other] resolution = "512,768"
"""
    content, repairs = read_toml(write(tmp_path, text))
    assert content == {
        "network": {
            "network_dim": 32, "network_alpha": 16, "optimizer_type": "AdamW8bit", "seed": 4,
            "learning_rate": 1e-4, "cache_latents": True, "output_name": "it’s “mine”",
            "network_args": ["conv_dim=4", "conv_alpha=1"], "train_data_dir": "C:\\Users\\me\\new",
        },
        "other": {"resolution": "512,768"},
    }  # fmt: skip
    assert {"typographic quotes", "several pairs on one line"} < set(repairs)
    fine = 'output_name = "a “b” – c = d e = f"\n'
    assert read_toml(write(tmp_path, fine)) == ({"output_name": "a “b” – c = d e = f"}, [])
