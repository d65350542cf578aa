"""Warnings about the images of a dataset before it is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from train.data.folders.wording import count_noun, first_names, plural_form
from train.data.image_checks import ExaminedImage, find_copies, has_one_background
from train.data.images.image import TrainingImage
from train.text.display import readable


def advice(
    training: Sequence[TrainingImage],
    validation: Sequence[TrainingImage],
    examined: dict[Path, ExaminedImage],
    min_images: int,
) -> list[str]:
    """Warnings about the images themselves.

    Args:
        examined: the properties of each file.
        min_images: the number of images below which there are too few.
    """
    by_path = {image.path: examined[image.path] for image in training}
    pairs = find_copies(by_path)
    transparent = [file for file, image in by_path.items() if image.has_transparency]
    animated = [file for file, image in by_path.items() if image.animated]
    lines: list[str] = []
    if len({image.content for image in by_path.values()}) == 1:
        lines.append(
            "there is only one image to train on, so likeness (subject_fidelity) has no scale: "
            "that is how alike the images are to each other; one more gives it one"
        )
    if len(training) < min_images:
        lines.append(
            f"only {count_noun(len(training), 'image')}: with fewer than {min_images} a LoRA "
            "overfits early (data.min_images_warning)"
        )
    if not validation:
        lines.append("no image is held out: there will be no validation_loss")
    if pairs:
        names = " and ".join(readable(file.name) for file in pairs[0])
        lines.append(
            f"{count_noun(len(pairs), 'image')} {plural_form(len(pairs), 'occurs', 'occur')} "
            f"twice (such as {names}) and {plural_form(len(pairs), 'counts', 'count')} double"
        )
    if transparent:
        verb = plural_form(len(transparent), "is", "are")
        lines.append(
            f"{count_noun(len(transparent), 'image')} {verb} transparent "
            f"({first_names(transparent)}): composited onto white"
        )
    if animated:
        verb = plural_form(len(animated), "has", "have")
        lines.append(
            f"{count_noun(len(animated), 'image')} {verb} several frames or pages "
            f"({first_names(animated)}): "
            "only the first one is read"
        )
    if has_one_background(list(by_path.values())):
        lines.append(
            "the borders of all the images look the same: with one background the LoRA learns it "
            "along with the subject; add others, or name it in the captions"
        )
    if any(image.subset.flip for image in training):
        lines.append(
            "images are flipped: wrong for a subject whose sides differ (a parting, a scar, "
            "writing)"
        )
    return lines
