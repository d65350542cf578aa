"""What a careful friend would say about a data set before it is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from train.data.examination import Examined, copies, one_background
from train.data.picture import Picture
from train.data.reading import some


def advice(
    training: Sequence[Picture],
    validation: Sequence[Picture],
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
    clear = [file.name for file, one in shown.items() if one.see_through]
    said: list[str] = []
    if len(training) < few:
        said.append(f"{len(training)} pictures are few; {few} and more overfit later (data.few)")
    if not validation:
        said.append("no picture is held out: there will be no validation_loss")
    if pairs:
        names = " and ".join(file.name for file in pairs[0])
        said.append(f"{len(pairs)} pictures are there twice (as {names}) and count double")
    if clear:
        said.append(f"{len(clear)} pictures are see-through ({some(clear)}): put on white")
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
