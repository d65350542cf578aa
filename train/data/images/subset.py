"""A folder of images and how they are read: the result of every layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from train.data.images.buckets import Framing


@dataclass(frozen=True)
class Subset:
    """Images of one folder that are read in the same way.

    Attributes:
        captions: the folder of the caption files.
        class_words: the caption of images without one.
        repeats: number of uses of each image in an epoch.
        keep_tokens: comma-separated parts that stay at the beginning of a shuffled caption.
        caption_dropout: probability that the caption is dropped; None: the trial's.
        framing: sizes in pixels; None: the trial's.
        regularization: images of the class, not of the subject.
        validation_fraction: share of them that is held out; None: that of the settings.
        validation_seed: seed of the selection; None: that of the settings.
    """

    folder: Path
    captions: Path
    extension: str
    class_words: str
    repeats: int = 1
    shuffle_caption: bool = False
    keep_tokens: int = 0
    flip: bool = False
    color_augmentation: bool = False
    caption_dropout: float | None = None
    framing: Framing | None = None
    regularization: bool = False
    validation_fraction: float | None = None
    validation_seed: int | None = None

    @property
    def training_signature(self) -> list[object]:
        """Everything that affects training, independent of the location of the files."""
        settings = self.shuffle_caption, self.keep_tokens, self.flip, self.color_augmentation
        return [*settings, self.caption_dropout, self.framing, self.regularization]
