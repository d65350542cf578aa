"""A dataset: read, checked, split into training and validation images, and reported."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from train.config.schema import DataConfig, TrialConfig
from train.data.advice import advice
from train.data.folders.wording import count_noun, plural_form
from train.data.images.image import DataError, TrainingImage
from train.data.reader import DatasetReader
from train.data.regularization import balance_regularization
from train.data.size_report import lines_before_training
from train.data.validation_split import split, without_contents

# images of an epoch, repeats included: its order is a list of them
MAX_IMAGES_PER_EPOCH = 1_000_000


@dataclass(frozen=True)
class Dataset:
    """The images of a training and their captions.

    Attributes:
        training, validation: disjoint by content; validation may be empty.
        regularization: images of the class, trained along with the subject's; never scored.
        fingerprint: sha256 over what affects training: contents, captions, repeats, settings.
        warnings: advice about the images.
        batch_sizes: those in a dataset_config.
    """

    training: tuple[TrainingImage, ...]
    validation: tuple[TrainingImage, ...]
    trigger: str
    fingerprint: str
    warnings: tuple[str, ...] = field(default=())
    regularization: tuple[TrainingImage, ...] = field(default=())
    batch_sizes: tuple[int, ...] = field(default=())

    @property
    def trained(self) -> tuple[TrainingImage, ...]:
        """All images of an epoch: the subject's, then the regularization images."""
        return self.training + self.regularization

    @property
    def images_per_epoch(self) -> int:
        """Number of the subject's images in an epoch, repeats included."""
        return sum(image.repeats for image in self.training)

    def report(self, config: TrialConfig | None = None, *more: str) -> str:
        """A summary in a few lines, warnings last.

        Args:
            config: of the trial; adds lines about the sizes in training.
            more: lines about the trial, before the warnings.
        """
        captions = len({image.caption for image in self.training})
        repeats = sorted({image.repeats for image in self.training})
        times = f"{repeats[0]} to {repeats[-1]} repeats"
        if len(repeats) == 1:
            times = count_noun(repeats[0], "repeat")
        lines = [
            f"{count_noun(len(self.training), 'training image')} x {times}, "
            f"{count_noun(captions, 'different caption')}; {len(self.validation)} held out for "
            "validation"
        ]
        warnings = [*self.warnings]
        if config:
            size_lines, size_warnings = lines_before_training(
                self.training, self.validation, self.regularization, self.batch_sizes, config
            )
            lines, warnings = lines + size_lines, warnings + size_warnings
        return "\n".join([*lines, *more, *(f"warning: {warning}" for warning in warnings)])


def load_dataset(config: DataConfig) -> Dataset:
    """Reads and checks every image, and splits them.

    Held out are, in this order of preference: the images of `validation_path`; those of a
    subfolder `validation`; a seeded share of all, with copies of an image always on the same side.

    Raises:
        DataError: no folder, no image in it, or an image that cannot be decoded.
    """
    reader = DatasetReader(config)
    images, batch_sizes = reader.subject()
    regularization = [i for i in images if i.subset.regularization] + reader.regularization()
    subject = [image for image in images if not image.subset.regularization]
    if not subject:
        raise DataError(f"{reader.key}: holds only regularization images")
    validation = reader.held_out()
    if validation is None:
        training, validation = split(subject, config.validation_fraction, config.validation_seed)
    else:
        training = without_contents(subject, {image.content for image in validation})
    if not training:
        raise DataError("data.validation_path: holds all the images of the training folder")
    contents = {image.content for image in validation}
    images_shown = sum(image.repeats for image in training)
    if images_shown > max(MAX_IMAGES_PER_EPOCH, len(training)):
        raise DataError(
            f"{reader.key}: an epoch would show {images_shown:,} images "
            f"({count_noun(len(training), 'image')} with their repeats), and "
            f"{MAX_IMAGES_PER_EPOCH:,} is the most: take fewer repeats (data.repeats, num_repeats, "
            "or the number in a folder's name) and more epochs"
        )
    usable = without_contents(regularization, contents)
    repeated = balance_regularization(usable, images_shown)
    for unused, why in (
        (len(regularization) - len(usable), "they are equal to held-out ones"),
        (len(usable) - len(repeated), "there are more of them than of the subject's"),
    ):
        if unused:
            reader.warnings.append(
                f"{unused} of {count_noun(len(regularization), 'regularization image')} "
                f"{plural_form(unused, 'is', 'are')} not used: {why}"
            )
    return Dataset(
        training=tuple(training),
        validation=tuple(validation),
        trigger=reader.trigger,
        fingerprint=_fingerprint(training, validation, repeated),
        warnings=(
            *reader.warnings,
            *advice(training, validation, reader.examined, config.min_images_warning),
        ),
        regularization=tuple(repeated),
        batch_sizes=batch_sizes,
    )


def _fingerprint(
    training: Sequence[TrainingImage],
    validation: Sequence[TrainingImage],
    regularization: Sequence[TrainingImage],
) -> str:
    digest = hashlib.sha256()
    for part in (training, validation, regularization):
        digest.update(f"{len(part)}\0".encode())
        for image in part:
            entry = (
                image.sha256,
                image.caption,
                image.repeats,
                image.subset.training_signature,
            )
            digest.update(f"{entry}\0".encode())
    return digest.hexdigest()
