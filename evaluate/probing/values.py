"""What pictures can be asked for: the values of poses, backgrounds and outfits, in words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from evaluate.reading.encoder import Encoder
from train.config import CONF, ConfigError, suggestion

KINDS = ("poses", "backgrounds", "outfits")


@dataclass(frozen=True)
class Values:
    """What can be asked for: a file of conf/probes/values.

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

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Values:
        """From the content of such a file, or of a probe set's.

        Raises:
            KeyError, TypeError, AttributeError, IndexError: with what it lacks.
        """
        kinds = {kind: content["kinds"][kind] if "kinds" in content else content[kind]
                 for kind in KINDS}  # fmt: skip
        phrases = content.get("phrases") or {}
        values = cls(content["template"], content["class_word"], kinds, phrases)
        first = {part: options[0] for kind in kinds.values() for part, options in kind.items()}
        values.prompt("", first)
        return values

    def prompt(self, subject: str, asked: dict[str, str]) -> str:
        """The prompt that asks for one value of every part."""
        return self.template.format(subject=subject, **asked)

    def options(self, part: str) -> list[str]:
        """All values of a part."""
        return next(parts[part] for parts in self.kinds.values() if part in parts)

    def phrase(self, part: str, value: str, class_word: str) -> str:
        """The sentence that describes one value alone, for zero-shot classification."""
        template = self.phrases.get(part, "a photo of a {class_word} {value}")
        return template.format(class_word=class_word, value=value)


def load_values(file: str) -> Values:
    """Reads a file of prompt parts, by its name in conf/probes/values or its path.

    Raises:
        ConfigError: no such file, or one that lacks something.
    """
    folder = CONF / "probes" / "values"
    path = Path(file) if file.endswith((".yaml", ".yml")) else folder / f"{file}.yaml"
    if not path.is_file():
        near = suggestion(file, [p.stem for p in folder.glob("*.yaml")])
        raise ConfigError(f"probes.values: there is no {path.name}{near}")
    try:
        return Values.from_dict(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ConfigError(f"probes.values: {path} lacks {error}") from error


def class_words(trigger: str, values: Values) -> str:
    """The subject's class: `sks puppet` -> `puppet`; where the trigger has none, the file's."""
    return " ".join(trigger.split()[1:]) or values.class_word


def zero_shot(
    values: Values, part: str, class_word: str, encoder: Encoder, features: Tensor
) -> list[str]:
    """The value of the part that each picture shows, by the nearest sentence in CLIP's space."""
    options = values.options(part)
    phrases = [values.phrase(part, value, class_word) for value in options]
    winners = (features @ encoder.text_features(phrases).T).argmax(1)
    return [options[i] for i in torch.atleast_1d(winners).tolist()]
