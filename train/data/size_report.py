"""Reports the sizes of the images in training, with warnings about unwise settings."""

from __future__ import annotations

from collections.abc import Sequence

from train.config.schema import TrialConfig
from train.data.batching import crops_of, plan_batches
from train.data.folders.wording import count_noun, plural_form
from train.data.images.buckets import Crop
from train.data.images.image import TrainingImage
from train.text.display import readable

# how often an image is used in total: the presets recommend 90 to 200 times
MIN_USES, MAX_USES = 20, 400
VISIBLE_UPSCALING = 1.25  # factor from which on upscaling is visible


def lines_before_training(
    training: Sequence[TrainingImage],
    validation: Sequence[TrainingImage],
    regularization: Sequence[TrainingImage],
    batch_sizes: Sequence[int],
    config: TrialConfig,
) -> tuple[list[str], list[str]]:
    """Lines on sizes and regularization images; and warnings.

    Args:
        batch_sizes: those in a dataset_config.

    Raises:
        DataError: an image is too small for a bucket.
    """
    images = [*training, *regularization]
    crops = crops_of(images, config.data)
    crops_of(validation, config.data)  # an image that is too small should fail now, not later
    batches = plan_batches(images, crops, config.training.batch_size)
    lines = [
        f"{'bucket' if config.data.buckets else 'size'} {width}x{height}: "
        f"{count_noun(len(set(indices)), 'image')}, {len(indices)} per epoch"
        for (width, height), indices in batches.buckets.items()
    ]
    if regularization:
        times = sum(image.repeats for image in regularization)
        lines.append(
            f"{count_noun(len(regularization), 'regularization image')}, shown "
            f"{count_noun(times, 'time')} per epoch"
        )
    settings = config.training
    epochs: float = settings.epochs
    if settings.max_steps:
        epochs = settings.max_steps * settings.gradient_accumulation / len(batches)
    return lines, _warnings(training, crops, batch_sizes, config, epochs)


def _warnings(
    training: Sequence[TrainingImage],
    crops: Sequence[Crop],
    batch_sizes: Sequence[int],
    config: TrialConfig,
    epochs: float,
) -> list[str]:
    warnings = []
    settings = config.training
    times = sum(image.repeats for image in training) * epochs / len(training)
    if times > MAX_USES:
        warnings.append(
            f"each image is seen {times:.0f} times: too many repeats and epochs for so few images "
            "(100 to 200 are usual)"
        )
    elif times < MIN_USES:
        often = f"only {count_noun(round(times), 'time')}" if times >= 1 else "less than once"
        warnings.append(f"an image is seen {often} (100 to 200 are usual)")
    enlarged = [(crop.scale, image) for crop, image in zip(crops, training, strict=False)
                if crop.scale > VISIBLE_UPSCALING]  # fmt: skip
    if enlarged:
        scale, smallest = max(enlarged, key=lambda pair: pair[0])
        width, height = smallest.size
        are, get = (
            plural_form(len(enlarged), "is", "are"),
            plural_form(len(enlarged), "gets", "get"),
        )
        warnings.append(
            f"{count_noun(len(enlarged), 'image')} {are} smaller than the training size and {get} "
            f"blurred: {readable(smallest.path.name)}, {width}x{height}, is enlarged {scale:.1f} "
            "times"
        )
    resolution = (config.data.resolution, config.data.height or config.data.resolution)
    framings = [image.subset.framing for image in training]
    if sizes := {framing.resolution for framing in framings if framing} - {resolution}:
        listed = ", ".join(f"{width}x{height}" for width, height in sorted(sizes))
        warnings.append(
            f"the dataset_config's resolution {listed} is used for training; probes use "
            f"data.resolution, {resolution[0]}"
        )
    if other_sizes := {size for size in batch_sizes if size != settings.batch_size}:
        listed = ", ".join(map(str, sorted(other_sizes)))
        warnings.append(
            f"the dataset_config's batch_size {listed} is not used; training.batch_size is "
            f"{settings.batch_size}"
        )
    return warnings
