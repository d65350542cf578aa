"""What becomes of the pictures in training: their sizes, and what looks unwise about it."""

from __future__ import annotations

from collections.abc import Sequence

from train.config.schema import TrialConfig
from train.data.batching import frames_of, plan_batches
from train.data.folders.wording import agreed, counted
from train.data.images.buckets import Frame
from train.data.images.image import TrainingImage
from train.text.display import readable

# how often a picture is seen in all: the presets say 90 to 200 times
RARELY, OFTEN = 20, 400
ENLARGED = 1.25  # times, from which on it is seen


def lines_before_training(
    training: Sequence[TrainingImage],
    validation: Sequence[TrainingImage],
    regularization: Sequence[TrainingImage],
    batch_sizes: Sequence[int],
    config: TrialConfig,
) -> tuple[list[str], list[str]]:
    """Lines on sizes and regularisation; and warnings.

    Args:
        batch_sizes: those that a dataset_config asks for.

    Raises:
        DataError: a picture that is too small for a bucket.
    """
    pictures = [*training, *regularization]
    frames = frames_of(pictures, config.data)
    frames_of(validation, config.data)  # one that is too small ends the run now and not later
    batches = plan_batches(pictures, frames, config.training.batch_size)
    lines = [
        f"{'bucket' if config.data.buckets else 'size'} {width}x{height}: "
        f"{counted(len(set(shown)), 'picture')}, {len(shown)} an epoch"
        for (width, height), shown in batches.buckets.items()
    ]
    if regularization:
        times = sum(picture.repeats for picture in regularization)
        lines.append(
            f"{counted(len(regularization), 'regularisation picture')}, shown "
            f"{counted(times, 'time')} an epoch"
        )
    settings = config.training
    epochs: float = settings.epochs
    if settings.max_steps:
        epochs = settings.max_steps * settings.gradient_accumulation / len(batches)
    return lines, _warnings(training, frames, batch_sizes, config, epochs)


def _warnings(
    training: Sequence[TrainingImage],
    frames: Sequence[Frame],
    batch_sizes: Sequence[int],
    config: TrialConfig,
    epochs: float,
) -> list[str]:
    said = []
    settings = config.training
    times = sum(picture.repeats for picture in training) * epochs / len(training)
    if times > OFTEN:
        said.append(
            f"each picture is seen {times:.0f} times: few pictures for so many repeats and epochs "
            "(100 to 200 are usual)"
        )
    elif times < RARELY:
        often = f"{times:.0f} x only" if times >= 1 else "less than once"
        said.append(f"a picture is seen {often} (100 to 200 are usual)")
    enlarged = [(frame.scale, picture) for frame, picture in zip(frames, training, strict=False)
                if frame.scale > ENLARGED]  # fmt: skip
    if enlarged:
        scale, smallest = max(enlarged, key=lambda pair: pair[0])
        width, height = smallest.size
        are, get = agreed(len(enlarged), "is", "are"), agreed(len(enlarged), "gets", "get")
        said.append(
            f"{counted(len(enlarged), 'picture')} {are} smaller than trained and {get} blurred: "
            f"{readable(smallest.path.name)}, {width}x{height}, is enlarged {scale:.1f} times"
        )
    own = (config.data.resolution, config.data.height or config.data.resolution)
    framings = [picture.subset.framing for picture in training]
    if sizes := {framing.resolution for framing in framings if framing} - {own}:
        asked = ", ".join(f"{width}x{height}" for width, height in sorted(sizes))
        said.append(
            f"the dataset_config's resolution {asked} is trained; probes go by data.resolution, "
            f"{own[0]}"
        )
    if others := {size for size in batch_sizes if size != settings.batch_size}:
        asked = ", ".join(map(str, sorted(others)))
        said.append(
            f"the dataset_config's batch_size {asked} is not used; training.batch_size is "
            f"{settings.batch_size}"
        )
    return said
