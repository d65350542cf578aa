"""The probe set: prompts and seeds that ask for what the training pictures do not have."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
import yaml
from torch import Tensor

from evaluate.config import ProbesConfig
from evaluate.encoder import Encoder
from train.config import CONF, ConfigError, suggestion
from train.data import Pictures

KINDS = ("poses", "backgrounds", "outfits")
SEEN = 0.1  # a value that this share of the training pictures shows belongs to the training set
CHOICE = 2  # so many values of each part are asked for at least


@dataclass(frozen=True)
class Values:
    """What can be asked for: a file of conf/probes/values.

    Attributes:
        template: of a prompt, with {subject} and the name of each part.
        kinds: poses, backgrounds, outfits -> part -> values.
        phrases: part -> how a value alone is described, with {class_word} and {value}.
    """

    template: str
    class_word: str
    kinds: dict[str, dict[str, list[str]]]
    phrases: dict[str, str]

    def options(self, part: str) -> list[str]:
        """All values of a part."""
        return next(parts[part] for parts in self.kinds.values() if part in parts)

    def phrase(self, part: str, value: str, class_word: str) -> str:
        """The sentence that describes one value alone, for zero-shot classification."""
        template = self.phrases.get(part, "a photo of a {class_word} {value}")
        return template.format(class_word=class_word, value=value)


@dataclass(frozen=True)
class Probe:
    """One picture to make.

    Attributes:
        prompt: with the trigger word.
        base_prompt: the same without it.
        asked: part -> the value that the prompt asks for.
    """

    prompt: str
    base_prompt: str
    seed: int
    asked: dict[str, str]


@dataclass(frozen=True)
class ProbeSet:
    """All probes of a study.

    Attributes:
        training: part -> the values that the training pictures show.
    """

    probes: list[Probe]
    values: Values
    class_word: str
    training: dict[str, list[str]]

    def to_yaml(self) -> str:
        """Readable, for the log."""
        return yaml.safe_dump(asdict(self), sort_keys=False, allow_unicode=True, width=100)


def load_values(file: str) -> Values:
    """Reads a file of prompt parts, by its name in conf/probes/values or its path.

    Raises:
        ConfigError: no such file, or one that lacks something.
    """
    folder = CONF / "probes" / "values"
    path = Path(file) if file.endswith((".yaml", ".yml")) else folder / f"{file}.yaml"
    if not path.is_file():
        near = suggestion(file, [p.stem for p in folder.glob("*.yaml")])
        raise ConfigError(f"probes.file: there is no {path.name}{near}")
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        kinds = {kind: content[kind] for kind in KINDS}
        values = Values(
            content["template"], content["class_word"], kinds, content.get("phrases") or {}
        )
        parts = {part: options[0] for kind in kinds.values() for part, options in kind.items()}
        values.template.format(subject="", **parts)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ConfigError(f"probes.file: {path} lacks {error}") from error
    return values


def make_probe_set(
    config: ProbesConfig,
    values: Values,
    pictures: Pictures,
    encoder: Encoder,
    training_features: Tensor,
    shown: dict[str, list[str]],
) -> ProbeSet:
    """The probes for these training pictures; the same for the same input.

    A value belongs to the training set where a caption names it or where a tenth of the pictures
    or more show it. All others are asked for, each about as often as the others; at least two of
    each part, the least seen first.

    Args:
        training_features: (n, d) image features of the training pictures.
        shown: part -> the value that each training picture is known to show; the encoder reads
            the parts that are not in it.
    """
    trigger = pictures.trigger.split()[0]
    class_word = class_words(pictures.trigger, values)
    captions = [picture.caption.lower() for picture in pictures.training]
    random = Random(config.seed)
    columns: dict[str, list[str]] = {}
    training: dict[str, list[str]] = {}
    for kind in KINDS:
        for part, options in values.kinds[kind].items():
            seen = shown.get(part) or zero_shot(
                values, part, class_word, encoder, training_features
            )
            shares = _shares(options, seen, captions)
            training[part] = [value for value in options if shares[value] >= SEEN]
            by_share = sorted(options, key=lambda value: (shares[value], options.index(value)))
            fresh = [value for value in options if value not in training[part]]
            asked = fresh if len(fresh) >= CHOICE else by_share[:CHOICE]
            columns[part] = _column(asked, config.count, random)
    probes = []
    for i in range(config.count):
        asked_values = {part: column[i] for part, column in columns.items()}
        prompt, base_prompt = (
            values.template.format(subject=f"a {subject}", **asked_values)
            for subject in (f"{trigger} {class_word}", class_word)
        )
        probes.append(Probe(prompt, base_prompt, config.seed * 100_000 + i, asked_values))
    return ProbeSet(probes, values, class_word, training)


def class_words(trigger: str, values: Values) -> str:
    """The subject's class: `sks puppet` -> `puppet`; where the trigger has none, the file's."""
    return " ".join(trigger.split()[1:]) or values.class_word


def _shares(options: list[str], seen: list[str], captions: list[str]) -> Counter[str]:
    """The share of the training pictures that show each value; 1 where a caption names it."""
    shares: Counter[str] = Counter()
    for value in seen:
        shares[value] += 1 / len(seen)  # type: ignore[assignment]
    for value in options:
        if any(value.lower() in caption for caption in captions):
            shares[value] = 1
    return shares


def _column(values: list[str], count: int, random: Random) -> list[str]:
    """`count` values, each about equally often, in random order."""
    column = (values * (count // len(values) + 1))[:count]
    random.shuffle(column)
    return column


def zero_shot(
    values: Values, part: str, class_word: str, encoder: Encoder, features: Tensor
) -> list[str]:
    """The value of the part that each picture shows, by the nearest sentence in CLIP's space."""
    options = values.options(part)
    phrases = [values.phrase(part, value, class_word) for value in options]
    winners = (features @ encoder.text_features(phrases).T).argmax(1)
    return [options[i] for i in torch.atleast_1d(winners).tolist()]
