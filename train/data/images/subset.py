"""A folder of pictures and how they are read: what any layout comes to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from train.data.images.buckets import Framing


@dataclass(frozen=True)
class Subset:
    """Pictures of one folder that are read alike.

    Attributes:
        captions: the folder of the caption files.
        class_words: the caption of pictures without one.
        repeats: how often an epoch shows each picture.
        keep_tokens: parts of a caption, between commas, that stay in front when it is shuffled.
        caption_dropout: how often a picture is shown without its caption; None: as the trial says.
        framing: sizes in pixels; None: as the trial says.
        regularization: pictures of the class and not of the subject.
        validation_fraction: share of them that is held out; None: as the settings say.
        validation_seed: which ones; None: as the settings say.
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
        """All of it that changes training, wherever the files lie."""
        about = self.shuffle_caption, self.keep_tokens, self.flip, self.color_augmentation
        return [*about, self.caption_dropout, self.framing, self.regularization]
