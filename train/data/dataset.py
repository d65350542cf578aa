"""A data set: found, checked, split into training and validation, reported."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from train.config.schema import DataConfig, TrialConfig
from train.data.advice import advice
from train.data.folders.wording import agreed, counted
from train.data.images.image import DataError, TrainingImage
from train.data.reader import DatasetReader
from train.data.regularization import balanced
from train.data.size_report import lines_before_training
from train.data.validation_split import split, without

MOST_SHOWN = 1_000_000  # pictures that repeats make of an epoch: the order of one is a list of them


@dataclass(frozen=True)
class Dataset:
    """A data set.

    Attributes:
        training, validation: disjoint by content; validation may be empty.
        regularization: of the class, trained on beside the subject's; never scored.
        fingerprint: sha256 over what changes training: contents, captions, repeats, manners.
        warnings: what a careful friend would say about these pictures.
        batch_sizes: those that a dataset_config asks for.
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
        """All that an epoch shows: the subject's pictures, then those of regularisation."""
        return self.training + self.regularization

    @property
    def shown(self) -> int:
        """How many pictures of the subject an epoch shows, repeats counted."""
        return sum(picture.repeats for picture in self.training)

    def report(self, config: TrialConfig | None = None, *more: str) -> str:
        """What was found, in a few lines, warnings last.

        Args:
            config: of the trial: what becomes of the pictures in training is told too.
            more: lines about the trial, before the warnings.
        """
        captions = len({picture.caption for picture in self.training})
        repeats = sorted({picture.repeats for picture in self.training})
        times = f"{repeats[0]} to {repeats[-1]} repeats"
        if len(repeats) == 1:
            times = counted(repeats[0], "repeat")
        lines = [
            f"{counted(len(self.training), 'training picture')} x {times}, "
            f"{counted(captions, 'different caption')}; {len(self.validation)} held out for "
            "validation"
        ]
        warnings = [*self.warnings]
        if config:
            found, said = lines_before_training(
                self.training, self.validation, self.regularization, self.batch_sizes, config
            )
            lines, warnings = lines + found, warnings + said
        return "\n".join([*lines, *more, *(f"warning: {warning}" for warning in warnings)])


def load_dataset(config: DataConfig) -> Dataset:
    """Finds, opens and checks every picture, and splits them.

    Held out are, in this order: the pictures of `validation_path`; those of a subfolder
    `validation`; a seeded share of them, copies of one picture always on the same side.

    Raises:
        DataError: no folder, no picture in it, or one that cannot be opened.
    """
    reader = DatasetReader(config)
    found, batch_sizes = reader.subject()
    regularization = [p for p in found if p.subset.regularization] + reader.regularization()
    subject = [picture for picture in found if not picture.subset.regularization]
    if not subject:
        raise DataError(f"{reader.key}: holds pictures of regularisation alone")
    validation = reader.held_out()
    if validation is None:
        training, validation = split(subject, config.validation_fraction, config.validation_seed)
    else:
        training = without(subject, {picture.content for picture in validation})
    if not training:
        raise DataError("data.validation_path: holds all the pictures of the training folder")
    contents = {picture.content for picture in validation}
    shown = sum(picture.repeats for picture in training)
    if shown > max(MOST_SHOWN, len(training)):
        raise DataError(
            f"{reader.key}: an epoch would show {shown:,} pictures "
            f"({counted(len(training), 'picture')} with their repeats), and {MOST_SHOWN:,} is the "
            "most: take fewer repeats (data.repeats, num_repeats, or the number in a folder's "
            "name) and more epochs"
        )
    others = without(regularization, contents)
    prior = balanced(others, shown)
    for unused, why in (
        (len(regularization) - len(others), "they are equal to held-out ones"),
        (len(others) - len(prior), "there are more of them than of the subject's"),
    ):
        if unused:
            reader.warnings.append(
                f"{unused} of {counted(len(regularization), 'regularisation picture')} "
                f"{agreed(unused, 'is', 'are')} not used: {why}"
            )
    return Dataset(
        training=tuple(training),
        validation=tuple(validation),
        trigger=reader.trigger,
        fingerprint=_fingerprint(training, validation, prior),
        warnings=(
            *reader.warnings,
            *advice(training, validation, reader.seen, config.min_images_warning),
        ),
        regularization=tuple(prior),
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
        for picture in part:
            about = (
                picture.sha256,
                picture.caption,
                picture.repeats,
                picture.subset.training_signature,
            )
            digest.update(f"{about}\0".encode())
    return digest.hexdigest()
