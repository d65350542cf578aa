"""The metadata of a LoRA file: kohya's `ss_*` keys, those of modelspec, and our settings.

They do not depend on the clock, so two runs of one config give the same bytes; the times that
kohya writes are included only if SOURCE_DATE_EPOCH (reproducible-builds.org) gives one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from train.config.schema import DataConfig, TrainingConfig, TrialConfig, settings_of
from train.data.batching import crops_of
from train.data.dataset import Dataset
from train.data.images.buckets import Crop, Framing, framing_of
from train.data.images.image import TrainingImage
from train.loop.optimizers import learning_rate, warmup_steps
from train.loop.schedule import TrainingSchedule
from train.models.base_model import BaseModel
from train.models.families import VELOCITY
from train.text.display import readable

MIXED_PRECISION = {"fp32": "no", "fp16": "fp16", "bf16": "bf16"}  # kohya's words


def metadata(
    config: TrialConfig,
    name: str,
    base: BaseModel,
    dataset: Dataset,
    schedule: TrainingSchedule,
    epoch: int,
) -> dict[str, str]:
    """The metadata of the LoRA file of an epoch.

    Args:
        name: of the LoRA.
    """
    settings = json.dumps(settings_of(config), sort_keys=True)
    name = readable(name)
    kohya_values = {
        "output_name": name,
        "session_id": _number(settings, dataset.fingerprint),  # the same for all epochs
        **_times(),
        **_base(config, base),
        **_network(config),
        **_training(config, schedule),
        **_images(config, dataset),
        "steps": schedule.steps_until(epoch),
        "epoch": epoch,
    }
    return {
        **{f"ss_{key}": str(value) for key, value in kohya_values.items()},
        **_modelspec(config, name, base, dataset),
        "lorasweep_config": settings,
        "lorasweep_data": dataset.fingerprint,
        "lorasweep_pictures": counts(dataset),
        "lorasweep_base": base.fingerprint,
    }


def counts(dataset: Dataset) -> str:
    """The numbers of training and held-out images, in words."""
    return f"{len(dataset.training)} training, {len(dataset.validation)} held out"


def _base(config: TrialConfig, base: BaseModel) -> dict[str, Any]:
    family = base.family
    hashes = {"sd_model_hash": base.short_hash} if base.short_hash else {}
    return {
        "sd_model_name": readable(Path(config.base.path).name),
        **hashes,
        "new_sd_model_hash": base.fingerprint,
        "base_model_version": family.base_model_version(base.prediction_type),
        "v2": family.is_v2,
        "clip_skip": None if family.is_xl else config.base.clip_skip,
        "max_token_length": None,
        "mixed_precision": MIXED_PRECISION[config.base.precision],
        "full_fp16": False,  # the LoRA itself is trained in fp32
        "zero_terminal_snr": base.noise_scheduler.config.rescale_betas_zero_snr,
    }


def _network(config: TrialConfig) -> dict[str, Any]:
    network = config.network
    convolutions = {
        "conv_dim": str(network.conv_rank),
        "conv_alpha": str(network.convolution_alpha),  # kohya's default is 1
    }
    return {
        "network_module": "networks.lora",
        "network_dim": network.rank,
        "network_alpha": network.linear_alpha,
        "network_dropout": network.dropout or None,
        "network_args": json.dumps(convolutions if network.conv_rank else {}),
    }


def _training(config: TrialConfig, schedule: TrainingSchedule) -> dict[str, Any]:
    training, trains_text_encoder = config.training, config.network.text_encoder
    rate = learning_rate(config.optimizer)
    options = [f"{k}={v}" for k, v in config.optimizer.items() if k not in ("_target_", "lr")]
    name = str(config.optimizer["_target_"])
    return {
        "num_epochs": schedule.epochs,
        "num_batches_per_epoch": schedule.batches,
        "max_train_steps": schedule.steps,
        "batch_size_per_device": training.batch_size,
        "total_batch_size": schedule.global_batch_size * schedule.accumulation,
        "gradient_accumulation_steps": training.gradient_accumulation,
        "gradient_checkpointing": training.gradient_checkpointing,
        "learning_rate": rate,
        "unet_lr": rate,
        "text_encoder_lr": _text_rate(training, rate) if trains_text_encoder else None,
        "optimizer": f"{name}({','.join(options)})" if options else name,
        "max_grad_norm": training.max_grad_norm,
        "lr_scheduler": config.scheduler.name,
        "lr_warmup_steps": warmup_steps(config.scheduler, schedule),
        "caption_dropout_rate": training.caption_dropout,
        "caption_dropout_every_n_epochs": 0,
        "caption_tag_dropout_rate": 0.0,
        "min_snr_gamma": training.min_snr_gamma,
        "noise_offset": training.noise_offset or None,
        "prior_loss_weight": training.prior_loss_weight,
        "loss_type": "l2",
        "seed": training.seed,
    }


def _text_rate(training: TrainingConfig, rate: float) -> Any:
    return rate if training.text_encoder_lr is None else training.text_encoder_lr


def _images(config: TrialConfig, dataset: Dataset) -> dict[str, Any]:
    """The folders with their repeats, the sizes, and the frequency of each tag in the captions."""
    data = config.data
    tags: dict[str, dict[str, int]] = {}
    for image in dataset.training:
        count = tags.setdefault(readable(image.path.parent.name), {})
        for tag in filter(None, map(str.strip, image.caption.lower().split(","))):
            count[tag] = count.get(tag, 0) + 1
    framing, crops = _framing(dataset, data), crops_of(dataset.trained, data)
    buckets = _buckets(dataset.trained, crops) if framing.buckets else None
    subsets = {image.subset for image in dataset.training}
    return {
        "num_train_images": dataset.images_per_epoch,
        "num_reg_images": sum(image.repeats for image in dataset.regularization),
        "num_validation_images": len(dataset.validation),
        "resolution": framing.resolution,
        "cache_latents": not data.color_augmentation,
        "color_aug": any(subset.color_augmentation for subset in subsets),
        "flip_aug": any(subset.flip for subset in subsets),
        "random_crop": False,
        "face_crop_aug_range": None,
        "shuffle_caption": any(subset.shuffle_caption for subset in subsets),
        "keep_tokens": max(subset.keep_tokens for subset in subsets),
        "enable_bucket": framing.buckets,
        "min_bucket_reso": framing.least if framing.buckets else None,
        "max_bucket_reso": framing.most if framing.buckets else None,
        "bucket_no_upscale": not framing.upscale,
        "bucket_info": json.dumps(buckets),
        "dataset_dirs": json.dumps(_folders(dataset.training)),
        "reg_dataset_dirs": json.dumps(_folders(dataset.regularization)),
        "tag_frequency": json.dumps(tags),
    }


def _framing(dataset: Dataset, data: DataConfig) -> Framing:
    """The sizes of training: of the first subset with buckets, else of the first one."""
    framings = [image.subset.framing or framing_of(data) for image in dataset.training]
    return next((framing for framing in framings if framing.buckets), framings[0])


def _folders(images: Sequence[TrainingImage]) -> dict[str, dict[str, int]]:
    folders: dict[str, dict[str, int]] = {}
    for image in images:
        entry = {"n_repeats": image.subset.repeats, "img_count": 0}
        folders.setdefault(readable(image.path.parent.name), entry)["img_count"] += 1
    return folders


def _buckets(images: Sequence[TrainingImage], crops: Sequence[Crop]) -> dict[str, Any]:
    """kohya's bucket_info: images of each size in an epoch, and the mean error of the aspect."""
    counts: Counter[tuple[int, int]] = Counter()
    errors = []
    for image, crop in zip(images, crops, strict=True):
        counts[crop.size] += image.repeats
        (width, height), (wide, high) = image.size, crop.size
        errors.append(abs(width / height - wide / high))
    return {
        "buckets": {
            str(number): {"resolution": list(size), "count": counts[size]}
            for number, size in enumerate(sorted(counts))
        },
        "mean_img_ar_error": sum(errors) / len(errors),
    }


def _modelspec(config: TrialConfig, name: str, base: BaseModel, dataset: Dataset) -> dict[str, str]:
    """Stability AI's model metadata standard, as kohya writes it."""
    family, (width, height) = base.family, _framing(dataset, config.data).resolution
    spec = {
        "sai_model_spec": "1.0.1",
        "architecture": family.modelspec_architecture(base.prediction_type),
        "implementation": family.implementation,
        "title": name,
        "resolution": f"{width}x{height}",
        "prediction_type": "v" if base.prediction_type == VELOCITY else "epsilon",
    }
    if dataset.trigger:
        spec["trigger_phrase"] = dataset.trigger
    if not family.is_xl:
        spec["encoder_layer"] = str(config.base.clip_skip)
    if timestamp := _source_date():
        spec["date"] = datetime.fromtimestamp(timestamp, UTC).isoformat()
    return {f"modelspec.{key}": value for key, value in spec.items()}


def _times() -> dict[str, float]:
    timestamp = _source_date()
    return (
        {}
        if timestamp is None
        else {"training_started_at": timestamp, "training_finished_at": timestamp}
    )


def _source_date() -> float | None:
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    return float(epoch) if epoch.isdigit() else None


def _number(*texts: str) -> int:
    return int(hashlib.sha256("\0".join(texts).encode()).hexdigest()[:8], 16)
