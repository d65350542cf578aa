"""The meaning of a kohya config is kept: applied, or rejected in one line, never ignored."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.train.kohya.test_translate import composed, translated, write
from train.config.schema import DataConfig
from train.config_checks import check_train
from train.data.dataset import load_dataset
from train.data.images.image import DataError
from train.data.reader import EMBEDDED_FOLDER
from train.errors import ConfigError
from train.files import permissions
from train.kohya import optimizer_args
from train.kohya.command_line import expand
from train.kohya.translate import translate
from train.kohya_toml.key_tables import IGNORED, KOHYA_DEFAULTS, OTHER_SCRIPTS, REFUSED, UNSUPPORTED
from train.loop import schedule

SUBSET = f'[[datasets.subsets]]\nimage_dir = "{EMBEDDED_FOLDER}"\n'


@pytest.fixture(autouse=True)
def named(tmp_path: Path) -> None:
    """The user has named the folder of the test."""
    permissions.allow([tmp_path])


def test_every_key_has_one_meaning() -> None:
    groups = [IGNORED, UNSUPPORTED, REFUSED.keys(), OTHER_SCRIPTS]
    assert sum(map(len, groups)) == len(set().union(*groups))
    read = Path(optimizer_args.__file__).parent.glob("*.py")
    requested = set(re.findall(r'config\.\w+\("(\w+)"', "".join(file.read_text() for file in read)))
    assert len(requested) > 50
    assert not requested & set().union(*groups), "a setting stands for these"


@pytest.mark.parametrize("key", sorted(REFUSED))
def test_key_that_changes_the_training_is_rejected(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=f"kohya: {key} is not supported, and without it"):
        translated(tmp_path, f"{key} = 7")
    default = KOHYA_DEFAULTS.get(key, False)
    written = f"'{default}'" if isinstance(default, str) else str(default).lower()
    for nothing in ("''", "false", "0", written):
        notes = translate(write(tmp_path, f"{key} = {nothing}")).notes
        assert f"without effect here: {key}" in notes


@pytest.mark.parametrize(
    "key",
    ["cpu_offload_checkpointing", "metadata_usage_hint", "metadata_thumbnail",
     "metadata_merged_from", "metadata_trigger_phrase", "metadata_preprocessor",
     "metadata_is_negative_embedding", "unsloth_offload_checkpointing", "blocks_to_swap",
     "text_encoder_batch_size", "skip_cache_check"],
)  # fmt: skip
def test_kohyas_keys_are_known(tmp_path: Path, key: str) -> None:
    notes = translate(write(tmp_path, f"{key} = 1")).notes
    assert f"without effect here: {key}" in notes


def test_keys_of_other_scripts_are_distinguished_from_typos(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="t5xxl is of its scripts for other models"):
        translated(tmp_path, 't5xxl = "/t5.safetensors"')


@pytest.mark.parametrize(
    ("text", "prediction"),
    [
        ("v2 = true", "epsilon"),
        ("v2 = true\nv_parameterization = true", "v_prediction"),
        ("v_parameterization = false", "epsilon"),
        ("", None),
        ('v2 = true\npretrained_model_name_or_path = "puppets"', None),
    ],
)
def test_prediction_type_from_a_kohya_config(
    tmp_path: Path, text: str, prediction: str | None
) -> None:
    result = translate(write(tmp_path, text))
    assert result.settings.get("base.prediction_type") == prediction
    message = any("v2 without v_parameterization" in note for note in result.notes)
    assert message == (text == "v2 = true")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lr_warmup_epochs = 2\nmax_train_epochs = 20", {"scheduler.warmup_epochs": 2,
                                                         "scheduler": "constant_with_warmup"}),
        ("lr_warmup_epochs = 2\nlr_warmup_steps = 9", {"scheduler.warmup_steps": 9,
                                                       "scheduler.warmup_epochs": None}),
        ("lr_warmup_ratio = 0.1", {"scheduler.warmup_ratio": 0.1}),
        ('lr_warmup_steps = "10%"', {"scheduler.warmup_ratio": 0.1}),
        (
            'lr_warmup_steps = "100%"',
            {"scheduler.warmup_ratio": 1.0, "scheduler.warmup_steps": None},
        ),
        ("lr_warmup_steps = 1", {"scheduler.warmup_ratio": 0.0, "scheduler.warmup_steps": 1}),
        ("lr_warmup_epochs = 0", {"scheduler": "constant", "scheduler.warmup_epochs": None}),
        ("max_train_steps = 900\nsave_n_epoch_ratio = 10", {"training.save_every": 1}),
        ("max_train_steps = 900\nsave_n_epoch_ratio = 5", {"training.save_every": None}),
        ("max_train_epochs = 9\nsave_n_epoch_ratio = 20", {"training.save_every": 1}),
        ("text_encoder_lr = [0, 1e-5]\nunet_lr = 1e-4",
         {"training.text_encoder_lr": [0, 1e-5], "network.text_encoder": True}),
        ("text_encoder_lr = [1e-5, 1e-5]\nunet_lr = 1e-4", {"training.text_encoder_lr": 1e-5}),
        ("text_encoder_lr = [0, 0.0]\nunet_lr = 1e-4", {"network.text_encoder": False}),
        ('optimizer_type = "DAdaptation"',
         {"optimizer._target_": "dadaptation.experimental.DAdaptAdamPreprint"}),
        ('optimizer_type = "DAdaptAdam"', {"optimizer._target_": None}),
        ("cache_text_encoder_outputs = true\nnetwork_train_unet_only = true",
         {"network.text_encoder": False}),
        ("dataset_repeats = 3", {"data.repeats": 3}),
        ('lr_scheduler = "adafactor"\noptimizer_type = "adafactor"', {"scheduler": "constant"}),
        ("--network-dim = 8", {"network.rank": 8}),
        ("resolution = 512x768", {"data.resolution": 512, "data.height": 768}),
        ('lr_scheduler = "cosine"\nlr_decay_steps = 10', {"scheduler.decay_ratio": None}),
    ],
)  # fmt: skip
def test_translation_of_common_lines(tmp_path: Path, text: str, expected: dict[str, Any]) -> None:
    file = write(tmp_path, text)
    result = translate(file).settings
    assert {key: result.get(key) for key in expected} == expected
    check_train(composed(expand([f"kohya={file}"])[0]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cache_text_encoder_outputs = true", "the text encoder is trained"),
        ("cache_text_encoder_outputs = true\nnetwork_train_unet_only = true\n"
         "shuffle_caption = true", "does not go with shuffle_caption"),
        ("color_aug = true\ncache_latents = true", "does not go with cache_latents"),
        ('use_8bit_adam = true\noptimizer_type = "Lion"', "use_8bit_adam: another optimizer"),
        ('optimizer_args = ["lr=1"]', "lr is not an argument"),
        ('optimizer_args = ["_target_=os.system"]', "_target_ is not an argument"),
        ('optimizer_args = ["eps=1j"]', "eps: '1j' is not allowed"),
        ('optimizer_args = ["a b=1"]', 'list of "name=value"'),
        ("network_args = 5", 'list of "name=value"'),
        ("text_encoder_lr = [1e-5, 2e-5, 3e-5]", "more than two"),
        (f"network_dim = {10**30}", "too large a number"),
        ("[network_dim]\nx = 1", "kohya has no such key, and would silently ignore it: x"),
    ],
)  # fmt: skip
def test_configs_that_kohya_rejects_are_rejected(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        translated(tmp_path, text)


def test_minimum_of_checkpoints_matches_the_schedule() -> None:
    assert optimizer_args.CHECKPOINTS == schedule.MIN_CHECKPOINTS


@pytest.mark.parametrize(
    ("text", "trigger"),
    [
        ("[[datasets]]\n[[datasets.subsets]]\nis_reg = true\nclass_tokens = 'dog'\n"
         "[[datasets.subsets]]\nclass_tokens = 'sks dog'", "sks dog"),
        ("[[datasets]]\n[[datasets.subsets]]\nis_reg = true\nclass_tokens = 'dog'\n"
         "[[datasets.subsets]]", ""),
        ("[general]\nclass_tokens = 'sks dog'\n[[datasets]]\n[[datasets.subsets]]", "sks dog"),
        ("[[datasets]]\nclass_tokens = 'sks dog'\n[[datasets.subsets]]\nis_reg = false", "sks dog"),
        ("[[datasets]]\n[[datasets.subsets]]\nclass_tokens = '  '", ""),
    ],
)  # fmt: skip
def test_only_subsets_of_the_subject_give_the_trigger(
    tmp_path: Path, text: str, trigger: str
) -> None:
    (tmp_path / "data.toml").write_text(text)
    file = write(tmp_path, f'dataset_config = "{tmp_path / "data.toml"}"')
    result = translate(file)
    assert result.settings["data.trigger"] == trigger
    assert result.settings["data.class_words"] == "", "kohya's caption where there is none"
    assert any("no class words" in note for note in result.notes) == (not trigger)


def test_without_class_words_captions_are_empty(tmp_path: Path, image_folder: Path) -> None:
    subsets = f"[[datasets]]\n[[datasets.subsets]]\nimage_dir = '{image_folder}'\n"
    permissions.allow([image_folder])
    (tmp_path / "data.toml").write_text(subsets)
    file = write(tmp_path, "resolution = 32\ncaption_extension = '.txt'")
    data = f"dataset_config={tmp_path / 'data.toml'}"
    lines, _ = expand([f"kohya={file}", data, "base.path=/my/model.safetensors"])
    dataset = load_dataset(composed(lines).data)
    assert {image.caption for image in dataset.training} == {"a photo of sks puppet", ""}
    assert "no caption and get an empty one" in dataset.report()


@pytest.mark.parametrize(
    ("general", "dataset", "held_out"),
    [
        ("", "validation_split = 0.25\nvalidation_seed = 1", 3),
        ("validation_split = 0.5", "", 6),
        ("validation_split = 0.5", "validation_split = 0.0", 0),
        ("", "", 2),  # data.validation_fraction
    ],
)
def test_dataset_holds_out_its_own_split(
    tmp_path: Path, general: str, dataset: str, held_out: int
) -> None:
    text = f"[general]\n{general}\n[[datasets]]\n{dataset}\n{SUBSET}"
    (tmp_path / "set.toml").write_text(text)
    chosen = DataConfig(dataset_config=str(tmp_path / "set.toml"), validation_fraction=0.15)
    loaded = load_dataset(chosen)
    assert (len(loaded.validation), len(loaded.training)) == (held_out, 12 - held_out)
    assert not {p.content for p in loaded.validation} & {p.content for p in loaded.training}


def test_datasets_are_split_separately_without_shared_images(tmp_path: Path) -> None:
    """The same images at two sizes, as users do; each size holds out different ones."""
    halves = "".join(
        f"[[datasets]]\nresolution = {side}\nvalidation_split = 0.5\nvalidation_seed = {side}\n"
        f"{SUBSET}" for side in (32, 48)
    )  # fmt: skip
    (tmp_path / "set.toml").write_text(halves)
    dataset = load_dataset(DataConfig(dataset_config=str(tmp_path / "set.toml")))
    assert dataset.training
    assert not {p.content for p in dataset.validation} & {p.content for p in dataset.training}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("validation_split = 1.0", "validation_split: 1.0 must be from 0 to below 1"),
        ("validation_seed = -1", "validation_seed: -1 must be from 0"),
        ("caption_prefix = 'sks '", "caption_prefix is not supported, and without it captions"),
        ("random_crop = true", "random_crop is not supported, and without it"),
        ("network_multiplier = 0.5", "network_multiplier is not supported"),
        ("resolution = 1000000", "resolution is one or two whole numbers of pixels, up to 4096"),
        ("num_repeats = 1000000000", "num_repeats: 1000000000 must be from 1 to 10000"),
        ("caption_extension = '/../x'", "is not an extension"),
        ("logging_dir = 'x'", "there is no key logging_dir"),
        (f"enable_bucket = true\nresolution = 32\nbucket_reso_steps = 64\n{SUBSET}", "bucket_reso"),
    ],
)
def test_invalid_dataset_config_ends_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "set.toml").write_text(f"[[datasets]]\n{text}")
    with pytest.raises(DataError, match=re.escape(message)) as error:
        load_dataset(DataConfig(dataset_config=str(tmp_path / "set.toml")))
    assert str(error.value).isprintable()


def test_keys_without_effect_are_accepted(tmp_path: Path) -> None:
    text = "random_crop = false\ncaption_prefix = ''\nnetwork_multiplier = 1.0\ncache_info = true\n"
    (tmp_path / "set.toml").write_text(f"[[datasets]]\n{text}{SUBSET}")
    dataset = load_dataset(DataConfig(dataset_config=str(tmp_path / "set.toml")))
    assert "not supported" not in dataset.report()


@pytest.mark.parametrize(
    "line",
    ["lr_warmup_steps = -1", "lr_warmup_steps = '-5%'", "lr_warmup_epochs = -2",
     "lr_warmup_ratio = 5", "lr_warmup_ratio = -0.1", "lr_warmup_epochs = nan",
     "lr_decay_steps = -0.1", "lr_warmup_ratio = '500%'"],
)  # fmt: skip
def test_impossible_warmup_lengths_name_kohyas_key(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigError, match=f"kohya: {line.split()[0]} must be (at least 0|between)"):
        translated(tmp_path, line)


def test_effective_warmup_key_is_named(tmp_path: Path) -> None:
    notes = translate(write(tmp_path, "lr_warmup_epochs = 2\nlr_warmup_ratio = 0.1")).notes
    assert "lr_warmup_ratio is ignored in favor of lr_warmup_epochs" in notes


@pytest.mark.parametrize(
    ("written", "name"),
    [("CosineAnnealingLR", "cosine"), ("cosine with restarts", "cosine_with_restarts"),
     ("cosine-with-restarts", "cosine_with_restarts"), ("Constant with warmup",
     "constant_with_warmup"), ("cosine_with_hard_restarts", "cosine_with_restarts")],
)  # fmt: skip
def test_alternative_spellings_of_schedules(tmp_path: Path, written: str, name: str) -> None:
    result = translate(write(tmp_path, f"lr_scheduler = '{written}'"))
    assert result.settings["scheduler"] == name
    assert f"lr_scheduler: {written.lower()} is called {name}" in result.notes


def test_date_in_a_folder_name_is_neither_repeats_nor_trigger(tmp_path: Path) -> None:
    for name in ("20240101_birthday", "0_nobody"):
        (tmp_path / "img" / name).mkdir(parents=True)
    text = f'train_data_dir = "{(tmp_path / "img").as_posix()}"'
    assert translated(tmp_path, text).get("data.trigger") == ""
    (tmp_path / "img" / "8_zwx cat").mkdir()
    assert translated(tmp_path, text).get("data.trigger") == "zwx cat"
