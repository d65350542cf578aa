"""What is to be said about the captions of a folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from train.data.captions.caption_files import Caption, CaptionFiles
from train.data.captions.trigger import says, word_of
from train.data.folders.folder_contents import Contents
from train.data.folders.wording import agreed, counted, some
from train.data.images.image import TrainingImage
from train.data.images.subset import Subset
from train.text.display import readable
from train.text.shell import in_setting

QUOTED = 60  # characters of a caption


def caption_warnings(
    subset: Subset,
    pictures: Sequence[TrainingImage],
    captions: Sequence[Caption],
    files: CaptionFiles,
    contents: Contents,
    trigger: str,
) -> list[str]:
    """Captions that were guessed, shared, missing, or lack the trigger.

    Args:
        captions: of each picture, as it was read.
        files: where they were found.
        contents: of the folder, broken pictures among them.
    """
    said = [*_notes(subset, pictures, captions), *_shared(pictures, files)]
    bare = [p.path for p, caption in zip(pictures, captions, strict=True) if not caption.text]
    if bare and not subset.regularization:
        said += _missing(subset, bare, pictures, files, contents, trigger)
    return [*said, *_trigger(subset, pictures, word_of(trigger))] if trigger else said


def _notes(
    subset: Subset, pictures: Sequence[TrainingImage], captions: Sequence[Caption]
) -> list[str]:
    noted: dict[str, list[tuple[TrainingImage, Caption]]] = defaultdict(list)
    for picture, caption in zip(pictures, captions, strict=True):
        for note in caption.notes:
            noted[note].append((picture, caption))
    return [
        f"captions in {readable(subset.folder.name)} that are {note}: {len(found)}, as that of "
        f"{readable(found[0][0].path.name)}, {found[0][1].text[:QUOTED]!r}"
        for note, found in noted.items()
    ]


def _shared(pictures: Sequence[TrainingImage], files: CaptionFiles) -> list[str]:
    owners: dict[Path | None, list[Path]] = defaultdict(list)
    for picture in pictures:
        owners[files.of(picture.path)].append(picture.path)
    return [
        f"one caption file, {readable(file.name)}, is that of {counted(len(paths), 'picture')}: "
        f"{some(paths)}"
        for file, paths in owners.items()
        if file and len(paths) > 1
    ]


def _missing(
    subset: Subset,
    bare: Sequence[Path],
    pictures: Sequence[TrainingImage],
    files: CaptionFiles,
    contents: Contents,
    trigger: str,
) -> list[str]:
    own = subset.class_words == trigger
    words = "the trigger" if own else "the words"
    instead = f"{words} {subset.class_words!r}" if subset.class_words else "an empty one"
    said = [
        f"{len(bare)} of {counted(len(pictures), 'picture')} in {readable(subset.folder.name)} "
        f"{agreed(len(bare), 'has', 'have')} no caption and {agreed(len(bare), 'gets', 'get')} "
        f"{instead} ({some(bare)})"
    ]
    elsewhere = {picture: files.elsewhere(picture) for picture in bare}
    for extension in sorted({found for found in elsewhere.values() if found}):
        count = sum(found == extension for found in elsewhere.values())
        said.append(
            f"{count} of them {agreed(count, 'has', 'have')} a {extension} file of the same name: "
            f"{in_setting('data.caption_extension', extension)} reads it (now {files.extension})"
        )
    if lonely := files.without_picture(contents.pictures):
        said.append(
            f"{counted(len(lonely), 'caption')} in {readable(subset.captions.name)} without a "
            f"picture of the same name: {some(lonely)}"
        )
    return said


def _trigger(subset: Subset, pictures: Sequence[TrainingImage], word: str) -> list[str]:
    folder = readable(subset.folder.name)
    have = [says(picture.caption, word) for picture in pictures]
    if subset.regularization and any(have):
        return [
            f"captions of regularisation pictures in {folder} have the trigger word {word!r}; they "
            "show the class, and not the subject"
        ]
    if subset.regularization or all(have):
        return []
    lacking = [p.path for p, has in zip(pictures, have, strict=True) if not has]
    return [
        f"{len(lacking)} of {counted(len(have), 'caption')} in {folder} "
        f"{agreed(len(lacking), 'lacks', 'lack')} the trigger word {word!r} (as "
        f"{readable(lacking[0].name)}); prompts with it may not find the subject"
    ]
