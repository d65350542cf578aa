"""What a dataset config of kohya's says that is no matter of its pictures alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from train.files.untrusted import Tree
from train.kohya_toml.lenient_toml import read_toml
from train.text.display import worded

# its keys -> those of the config that they beat
BEATEN = {"batch_size": "train_batch_size", "resolution": "resolution"}


def overriding_values(file: Path) -> dict[str, Any]:
    """What all its datasets, or [general], say, so that the config's does not count.

    Of several the first counts, and the report on the pictures warns of the others.

    Raises:
        ConfigError: no such file, or no TOML.
    """
    content = _content(file)
    general = _table(content.get("general"))
    datasets = [{**general, **dataset} for dataset in _tables(content.get("datasets"))]
    return {
        beaten: datasets[0][key]
        for key, beaten in BEATEN.items()
        if datasets and all(key in dataset for dataset in datasets)
    }


def class_words(file: Path) -> str | None:
    """Those of its first subset of the subject, not of regularisation, that has some.

    Raises:
        ConfigError: no such file, or no TOML.
    """
    said = (each.get("class_tokens") for each in subsets(file) if not each.get("is_reg"))
    found = (worded(" ".join(words.split())) for words in said if isinstance(words, str))
    return next(filter(None, found), None)


def subsets(file: Path) -> Iterator[dict[str, Any]]:
    """All its subsets, each with what its dataset and [general] say for it.

    Raises:
        ConfigError: no such file, or no TOML.
    """
    content = _content(file)
    for dataset in _tables(content.get("datasets")):
        for subset in _tables(dataset.get("subsets")):
            yield {**_table(content.get("general")), **dataset, **subset}


def _content(file: Path) -> Tree:
    content, _ = read_toml(file)  # what was repaired is said by whoever reads the pictures
    return content


def _tables(value: Any) -> list[dict[str, Any]]:
    """The tables of a list; what is none of them is refused by whoever reads the pictures."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
