"""The attributes that prompts can ask for: poses, backgrounds and outfits, in words."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from evaluate.features.clip import ClipEncoder
from evaluate.prompts.templates import TemplateError, fill
from train.config.parsing import suggestion
from train.config.schema import CONF
from train.errors import ConfigError
from train.files.untrusted import UntrustedFileError, read_yaml
from train.text.display import shortened

KINDS = ("poses", "backgrounds", "outfits")
MAX_BYTES = 4_000_000  # bytes of a file of values or of probes
SUBJECT = "subject"  # reserved in prompts; no part has this name
MAX_POSES = 1000  # combinations of all parts of a pose: the base generates each of them

Words = Annotated[str, Meta(pattern=r"\S", max_length=300)]
Name = Annotated[str, Meta(pattern=r"^[^{}\x00-\x1f]+\Z", max_length=100)]
Template = Annotated[str, Meta(pattern=r"\S", max_length=4000)]
Options = Annotated[list[Words], Meta(min_length=1, max_length=500)]
Parts = Annotated[dict[Name, Options], Meta(max_length=20)]


class Kinds(msgspec.Struct):
    """The values that can be asked for, by kind."""

    poses: Parts
    backgrounds: Parts
    outfits: Parts


class SavedAttributes(msgspec.Struct):
    """`AttributeBank` in a file: the kinds at the top level, or under `kinds` as in a probe set."""

    template: Template
    class_word: Words
    phrases: dict[Name, Template] | None = None
    kinds: Kinds | None = None
    poses: Parts | None = None
    backgrounds: Parts | None = None
    outfits: Parts | None = None

    def checked(self) -> AttributeBank:
        """The bank, after making one prompt and every phrase as a check.

        Raises:
            TemplateError: a name without a value, two parts of the same name, too many poses, or a
                missing kind.
        """
        kinds: dict[str, dict[str, list[str]]] = {}
        for kind in KINDS:
            parts = getattr(self.kinds or self, kind)
            if parts is None:
                raise TemplateError(f"lacks {kind}")
            kinds[kind] = parts
        values = AttributeBank(self.template, self.class_word, kinds, self.phrases or {})
        names = [part for options in kinds.values() for part in options]
        for part, count in Counter([*names, SUBJECT]).items():
            if count > 1:
                raise TemplateError(f"has two meanings of {shortened(part)}; rename one")
        poses = math.prod(map(len, kinds["poses"].values()))
        if poses > MAX_POSES:
            raise TemplateError(f"has {poses} poses, and at most {MAX_POSES} are drawn")
        values.prompt("", {part: values.options(part)[0] for part in names})
        for part in values.phrases:
            values.phrase(part, "", "")
        return values


@dataclass(frozen=True)
class AttributeBank:
    """The attributes that prompts can ask for, from a file of conf/probes/attributes.

    Attributes:
        template: of a prompt, with {subject} and the name of each part.
        class_word: the subject's class, if the trigger has no class word.
        kinds: poses, backgrounds, outfits -> part -> values.
        phrases: part -> description of a single value, with {class_word} and {value}.
    """

    template: str
    class_word: str
    kinds: dict[str, dict[str, list[str]]]
    phrases: dict[str, str]

    def prompt(self, subject: str, attributes: dict[str, str]) -> str:
        """The prompt that asks for one value of every part."""
        return fill(self.template, {**attributes, SUBJECT: subject})

    def options(self, part: str) -> list[str]:
        """All values of a part."""
        return next(parts[part] for parts in self.kinds.values() if part in parts)

    def phrase(self, part: str, value: str, class_word: str) -> str:
        """The sentence that describes one value alone, for zero-shot classification."""
        template = self.phrases.get(part, "a photo of a {class_word} {value}")
        return fill(template, {"class_word": class_word, "value": value})


def load_attributes(file: str) -> AttributeBank:
    """Reads a file of attributes, by its name in conf/probes/attributes or by its path.

    Raises:
        ConfigError: the file does not exist or is invalid.
    """
    folder = CONF / "probes" / "attributes"
    path = Path(file) if file.endswith((".yaml", ".yml")) else folder / f"{Path(file).name}.yaml"
    if not path.exists():
        hint = suggestion(file, [p.stem for p in folder.glob("*.yaml")])
        raise ConfigError(f"probes.attributes: there is no {shortened(path.name)}{hint}")
    try:
        return read_yaml(path, SavedAttributes, MAX_BYTES).checked()
    except (UntrustedFileError, TemplateError, OSError) as error:
        where = "" if isinstance(error, UntrustedFileError) else f"{shortened(path)} "
        raise ConfigError(f"probes.attributes: {where}{error}") from error


def class_words(trigger: str, values: AttributeBank) -> str:
    """The subject's class: `sks puppet` -> `puppet`; the file's if the trigger has none."""
    return " ".join(trigger.split()[1:]) or values.class_word


def zero_shot(
    values: AttributeBank, part: str, class_word: str, encoder: ClipEncoder, features: Tensor
) -> list[str]:
    """The value of the part that each image shows: the nearest sentence in CLIP's space."""
    options = values.options(part)
    phrases = [values.phrase(part, value, class_word) for value in options]
    winners = (features @ encoder.text_features(phrases).T).argmax(1)
    return [options[i] for i in torch.atleast_1d(winners).tolist()]
