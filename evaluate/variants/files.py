"""Where the files of variants are (see `evaluate.variants.scoring`); imports no network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evaluate.images.probe_images import images_file
from evaluate.scorecard import Scorecard

FOLDER = "variants"
MARK, IMAGES = "--", "-images"  # in the names of variants' files, and of their sheets


def delete_others(folder: Path, kept: Sequence[Scorecard]) -> None:
    """Deletes the files and the images of all variants but some.

    The scorecards and the contact sheets stay, so a variant that is made again is not scored again.

    Args:
        kept: the variants to keep, and files of others that may be in the folder.
    """
    files = {card.checkpoint.absolute() for card in kept}
    for file in folder.glob(f"*{MARK}*.safetensors"):
        if not file.stem.endswith(IMAGES) and file.absolute() not in files:
            for one in (images_file(sheet_of(file)), file):
                one.unlink(missing_ok=True)


def sheet_of(file: Path) -> Path:
    """The contact sheet of a variant's file."""
    return file.with_name(f"{file.stem}{IMAGES}.png")
