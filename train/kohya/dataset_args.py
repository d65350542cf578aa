"""Translates kohya's dataset keys: where the images are, and how they are cropped and cached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from train.config.schema import EMBEDDED
from train.data.folders.folder_names import folder_name
from train.errors import ConfigError
from train.files.paths import expanded
from train.kohya.dataset_overrides import class_words
from train.kohya_toml.key_tables import MAX_BUCKET_SIDE, MIN_BUCKET_SIDE
from train.kohya_toml.parsed_config import KohyaConfig, format_value, whole
from train.text.display import name_as_words


def dataset_settings(config: KohyaConfig, dataset_config: str | None) -> dict[str, Any]:
    """Our settings of the dataset.

    Args:
        dataset_config: the dataset config, if there is one.
    """
    folder = config.text("train_data_dir")
    if folder and dataset_config:
        config.notes.append("train_data_dir is ignored in favor of the dataset config, as in kohya")
        folder = None
    base, size = config.text("pretrained_model_name_or_path"), _resolution(config)
    if size is None and not dataset_config:
        config.notes.append("resolution is missing: kohya would stop; ours is used")
    return {
        "data.path": folder,
        "data.dataset_config": dataset_config,
        **_trigger_and_caption(config, folder, dataset_config),
        "data.regularization_path": config.text("reg_data_dir"),
        "data.caption_extension": config.text("caption_extension", ".caption"),
        "data.repeats": config.whole("dataset_repeats") or 1,  # for folders without their own
        "data.validation_fraction": config.number("validation_split") or 0.0,
        "data.validation_seed": config.whole("validation_seed"),
        "data.resolution": size[0] if size else None,
        "data.height": size[1] if size else None,
        "data.shuffle_caption": config.flag("shuffle_caption") or None,
        "data.keep_tokens": config.whole("keep_tokens"),
        "data.flip": config.flag("flip_aug") or None,
        **_buckets(config, embedded=base == EMBEDDED),
        **_caches(config),
    }


def _resolution(config: KohyaConfig) -> tuple[int, int | None] | None:
    """Width, and height if it differs: from 512, "512", "512,768" or [512, 768]."""
    sides = [whole("resolution", side) for side in config.numbers("resolution")]
    if len(sides) > 2:
        raise ConfigError(
            f"kohya: resolution: {format_value(sides)} is neither a side nor width and height"
        )
    if not sides:
        return None
    width, height = sides[0], sides[-1]
    return width, None if width == height else height


def _trigger_and_caption(
    config: KohyaConfig, folder: str | None, dataset_config: str | None
) -> dict[str, Any]:
    """The trigger, and the caption of images without one.

    The trigger is the class words of the dataset config, or of the first of kohya's folders
    (10_sks person). Each folder has its own; without any, kohya's caption is empty.
    """
    trigger = class_words(Path(dataset_config)) if dataset_config else _folder_words(folder)
    if trigger is None:
        config.notes.append(
            "there are no class words, so images without a caption file get an empty caption, "
            "as in kohya"
        )
    return {"data.trigger": trigger or "", "data.class_words": ""}


def _folder_words(folder: str | None) -> str | None:
    try:
        names = sorted(inside.name for inside in expanded(folder or "-").iterdir())
    except (OSError, ValueError):  # reported when the images are read
        return None
    parsed = [folder_name(name) for name in names]
    words = [name_as_words(one.words).strip() for one in parsed if one and one.has_repeats]
    return next(filter(None, words), None)


def _buckets(config: KohyaConfig, embedded: bool) -> dict[str, Any]:
    enabled = config.flag("enable_bucket")
    sides = {
        "data.min_bucket": config.whole("min_bucket_reso", MIN_BUCKET_SIDE if enabled else None),
        "data.max_bucket": config.whole("max_bucket_reso", MAX_BUCKET_SIDE if enabled else None),
        "data.bucket_step": config.whole("bucket_reso_steps", 64 if enabled else None),
    }
    upscale = not config.flag("bucket_no_upscale")
    if enabled:
        return {"data.buckets": True, **sides, "data.bucket_upscale": upscale}
    # they apply if a dataset config has buckets of its own
    sides["data.bucket_upscale"] = None if upscale else False
    return sides if embedded else {"data.buckets": False, **sides}  # the embedded base has none


def _caches(config: KohyaConfig) -> dict[str, Any]:
    disk = config.flag("cache_latents_to_disk")
    fixed = config.flag("cache_latents") or disk
    if config.flag("color_aug"):
        if fixed:  # images that change each time cannot be cached
            raise ConfigError("kohya: color_aug: does not go with cache_latents; kohya stops here")
        return {"data.color_augmentation": True, "cache": "off"}
    return {"data.resample_latents": False if fixed else None, "cache": "disk" if disk else None}
