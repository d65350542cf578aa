"""What pictures can be asked for: the values of poses, backgrounds and outfits, in words."""

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
LARGEST = 4_000_000  # bytes of a file of values or of probes
SUBJECT = "subject"  # of a prompt; no part is called so
MOST_POSES = 1000  # of all parts of a pose together: each is drawn to know it in the pictures

Words = Annotated[str, Meta(pattern=r"\S", max_length=300)]
Name = Annotated[str, Meta(pattern=r"^[^{}\x00-\x1f]+\Z", max_length=100)]
Template = Annotated[str, Meta(pattern=r"\S", max_length=4000)]
Options = Annotated[list[Words], Meta(min_length=1, max_length=500)]
Parts = Annotated[dict[Name, Options], Meta(max_length=20)]


class Kinds(msgspec.Struct):
    """What can be asked for, of each kind."""

    poses: Parts
    backgrounds: Parts
    outfits: Parts


class SavedAttributes(msgspec.Struct):
    """`AttributeBank` in a file: the kinds one by one, or together as a probe set has them."""

    template: Template
    class_word: Words
    phrases: dict[Name, Template] | None = None
    kinds: Kinds | None = None
    poses: Parts | None = None
    backgrounds: Parts | None = None
    outfits: Parts | None = None

    def checked(self) -> AttributeBank:
        """These, of which every prompt and every phrase can be made.

        Raises:
            TemplateError: a name that has no value, two parts of one name, too many poses, or a
                kind that is not there.
        """
        kinds: dict[str, dict[str, list[str]]] = {}
        for kind in KINDS:
            found = getattr(self.kinds or self, kind)
            if found is None:
                raise TemplateError(f"lacks {kind}")
            kinds[kind] = found
        values = AttributeBank(self.template, self.class_word, kinds, self.phrases or {})
        parts = [part for some in kinds.values() for part in some]
        for part, count in Counter([*parts, SUBJECT]).items():
            if count > 1:
                raise TemplateError(f"has two meanings of {shortened(part)}; call one otherwise")
        poses = math.prod(map(len, kinds["poses"].values()))
        if poses > MOST_POSES:
            raise TemplateError(f"has {poses} poses, and at most {MOST_POSES} are drawn")
        values.prompt("", {part: values.options(part)[0] for part in parts})
        for part in values.phrases:
            values.phrase(part, "", "")
        return values


@dataclass(frozen=True)
class AttributeBank:
    """What can be asked for: a file of conf/probes/attributes.

    Attributes:
        template: of a prompt, with {subject} and the name of each part.
        class_word: what the subject is, where the trigger has no class word.
        kinds: poses, backgrounds, outfits -> part -> values.
        phrases: part -> how a value alone is described, with {class_word} and {value}.
    """

    template: str
    class_word: str
    kinds: dict[str, dict[str, list[str]]]
    phrases: dict[str, str]

    def prompt(self, subject: str, asked: dict[str, str]) -> str:
        """The prompt that asks for one value of every part."""
        return fill(self.template, {**asked, SUBJECT: subject})

    def options(self, part: str) -> list[str]:
        """All values of a part."""
        return next(parts[part] for parts in self.kinds.values() if part in parts)

    def phrase(self, part: str, value: str, class_word: str) -> str:
        """The sentence that describes one value alone, for zero-shot classification."""
        template = self.phrases.get(part, "a photo of a {class_word} {value}")
        return fill(template, {"class_word": class_word, "value": value})


def load_attributes(file: str) -> AttributeBank:
    """Reads a file of prompt parts, by its name in conf/probes/attributes or its path.

    Raises:
        ConfigError: no such file, or one that lacks something.
    """
    folder = CONF / "probes" / "attributes"
    path = Path(file) if file.endswith((".yaml", ".yml")) else folder / f"{Path(file).name}.yaml"
    if not path.exists():
        near = suggestion(file, [p.stem for p in folder.glob("*.yaml")])
        raise ConfigError(f"probes.attributes: there is no {shortened(path.name)}{near}")
    try:
        return read_yaml(path, SavedAttributes, LARGEST).checked()
    except (UntrustedFileError, TemplateError, OSError) as error:
        where = "" if isinstance(error, UntrustedFileError) else f"{shortened(path)} "
        raise ConfigError(f"probes.attributes: {where}{error}") from error


def class_words(trigger: str, values: AttributeBank) -> str:
    """The subject's class: `sks puppet` -> `puppet`; where the trigger has none, the file's."""
    return " ".join(trigger.split()[1:]) or values.class_word


def zero_shot(
    values: AttributeBank, part: str, class_word: str, encoder: ClipEncoder, features: Tensor
) -> list[str]:
    """The value of the part that each picture shows, by the nearest sentence in CLIP's space."""
    options = values.options(part)
    phrases = [values.phrase(part, value, class_word) for value in options]
    winners = (features @ encoder.text_features(phrases).T).argmax(1)
    return [options[i] for i in torch.atleast_1d(winners).tolist()]
