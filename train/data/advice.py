"""What a careful friend would say about a data set before it is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from train.data.folders.wording import agreed, counted, some
from train.data.image_checks import Examined, copies, one_background
from train.data.images.image import TrainingImage
from train.text.display import readable


def advice(
    training: Sequence[TrainingImage],
    validation: Sequence[TrainingImage],
    seen: dict[Path, Examined],
    few: int,
) -> list[str]:
    """Warnings about the pictures themselves.

    Args:
        seen: what each file showed.
        few: pictures are too few below this.
    """
    shown = {picture.path: seen[picture.path] for picture in training}
    pairs = copies(shown)
    clear = [file for file, one in shown.items() if one.see_through]
    moving = [file for file, one in shown.items() if one.animated]
    said: list[str] = []
    if len({one.content for one in shown.values()}) == 1:
        said.append(
            "there is only one picture to train on, so likeness (subject_fidelity) has no scale: "
            "that is how alike the pictures are to each other; one more gives it one"
        )
    if len(training) < few:
        said.append(
            f"{counted(len(training), 'picture')} {agreed(len(training), 'is', 'are')} few; {few} "
            "and more overfit later (data.min_images_warning)"
        )
    if not validation:
        said.append("no picture is held out: there will be no validation_loss")
    if pairs:
        names = " and ".join(readable(file.name) for file in pairs[0])
        said.append(
            f"{counted(len(pairs), 'picture')} {agreed(len(pairs), 'is', 'are')} there twice (as "
            f"{names}) and {agreed(len(pairs), 'counts', 'count')} double"
        )
    if clear:
        said.append(
            f"{counted(len(clear), 'picture')} {agreed(len(clear), 'is', 'are')} see-through "
            f"({some(clear)}): put on white"
        )
    if moving:
        have = agreed(len(moving), "has", "have")
        said.append(
            f"{counted(len(moving), 'picture')} {have} several frames or pages ({some(moving)}): "
            "the first alone is read"
        )
    if one_background(list(shown.values())):
        said.append(
            "the borders of all the pictures look the same: with one background the LoRA learns it "
            "along with the subject; add others, or name it in the captions"
        )
    if any(picture.subset.flip for picture in training):
        said.append(
            "pictures are flipped: wrong for a subject whose sides differ (a parting, a scar, "
            "writing)"
        )
    return said
