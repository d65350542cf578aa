"""Warnings about the captions of a folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from train.data.captions.caption_files import Caption, CaptionFiles
from train.data.captions.trigger import mentions, trigger_word
from train.data.folders.folder_contents import Contents
from train.data.folders.wording import count_noun, first_names, plural_form
from train.data.images.image import TrainingImage
from train.data.images.subset import Subset
from train.text.display import readable
from train.text.shell import in_setting

MAX_QUOTED_CHARACTERS = 60  # characters of a caption


def caption_warnings(
    subset: Subset,
    images: Sequence[TrainingImage],
    captions: Sequence[Caption],
    files: CaptionFiles,
    contents: Contents,
    trigger: str,
) -> list[str]:
    """Warns of captions that were guessed, shared, missing, or lack the trigger.

    Args:
        captions: of each image, as read.
        files: that the captions were read from.
        contents: of the folder, including broken images.
    """
    warnings = [*_guess_warnings(subset, images, captions), *_shared_file_warnings(images, files)]
    uncaptioned = [i.path for i, caption in zip(images, captions, strict=True) if not caption.text]
    if uncaptioned and not subset.regularization:
        warnings += _missing_caption_warnings(subset, uncaptioned, images, files, contents, trigger)
    return (
        [*warnings, *_trigger_warnings(subset, images, trigger_word(trigger))]
        if trigger
        else warnings
    )


def _guess_warnings(
    subset: Subset, images: Sequence[TrainingImage], captions: Sequence[Caption]
) -> list[str]:
    by_note: dict[str, list[tuple[TrainingImage, Caption]]] = defaultdict(list)
    for image, caption in zip(images, captions, strict=True):
        for note in caption.notes:
            by_note[note].append((image, caption))
    return [
        f"captions in {readable(subset.folder.name)} that are {note}: {len(pairs)}, such as that "
        f"of {readable(pairs[0][0].path.name)}, {pairs[0][1].text[:MAX_QUOTED_CHARACTERS]!r}"
        for note, pairs in by_note.items()
    ]


def _shared_file_warnings(images: Sequence[TrainingImage], files: CaptionFiles) -> list[str]:
    owners: dict[Path | None, list[Path]] = defaultdict(list)
    for image in images:
        owners[files.file_of(image.path)].append(image.path)
    return [
        f"one caption file, {readable(file.name)}, is that of {count_noun(len(paths), 'image')}: "
        f"{first_names(paths)}"
        for file, paths in owners.items()
        if file and len(paths) > 1
    ]


def _missing_caption_warnings(
    subset: Subset,
    uncaptioned: Sequence[Path],
    images: Sequence[TrainingImage],
    files: CaptionFiles,
    contents: Contents,
    trigger: str,
) -> list[str]:
    words = "the trigger" if subset.class_words == trigger else "the words"
    instead = f"{words} {subset.class_words!r}" if subset.class_words else "an empty one"
    have, get = (
        plural_form(len(uncaptioned), "has", "have"),
        plural_form(len(uncaptioned), "gets", "get"),
    )
    warnings = [
        f"{len(uncaptioned)} of {count_noun(len(images), 'image')} in "
        f"{readable(subset.folder.name)} {have} no caption and {get} {instead} "
        f"({first_names(uncaptioned)})"
    ]
    extensions = [files.other_extension(file) for file in uncaptioned]
    for extension in sorted({extension for extension in extensions if extension}):
        count = extensions.count(extension)
        warnings.append(
            f"{count} of them {plural_form(count, 'has', 'have')} a {extension} file of the same "
            f"name: {in_setting('data.caption_extension', extension)} reads it (now "
            f"{files.extension})"
        )
    if unused := files.without_image(contents.images):
        warnings.append(
            f"{count_noun(len(unused), 'caption')} in {readable(subset.captions.name)} without an "
            f"image of the same name: {first_names(unused)}"
        )
    return warnings


def _trigger_warnings(subset: Subset, images: Sequence[TrainingImage], word: str) -> list[str]:
    folder = readable(subset.folder.name)
    have = [mentions(image.caption, word) for image in images]
    if subset.regularization and any(have):
        return [
            f"captions of regularization images in {folder} have the trigger word {word!r}; they "
            "show the class, and not the subject"
        ]
    if subset.regularization or all(have):
        return []
    without_trigger = [i.path for i, has in zip(images, have, strict=True) if not has]
    return [
        f"{len(without_trigger)} of {count_noun(len(have), 'caption')} in {folder} "
        f"{plural_form(len(without_trigger), 'lacks', 'lack')} the trigger word {word!r} (such as "
        f"{readable(without_trigger[0].name)}); prompts with it may not find the subject"
    ]
