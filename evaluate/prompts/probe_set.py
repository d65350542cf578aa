"""The probe set: prompts and seeds that ask for what the training images do not show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import Annotated

import msgspec
import yaml
from msgspec import Meta
from torch import Tensor

from evaluate.config import PROBES_PER_OTHER_ROLE, ProbesConfig
from evaluate.features.clip import ClipEncoder
from evaluate.prompts.attributes import (
    KINDS,
    MAX_BYTES,
    AttributeBank,
    Name,
    SavedAttributes,
    Words,
    class_words,
    zero_shot,
)
from evaluate.prompts.roles import CAPTION, CLASS, FRESH
from evaluate.prompts.templates import TemplateError
from train.data.captions.trigger import mentions, trigger_word, without_trigger
from train.data.dataset import Dataset
from train.errors import ConfigError
from train.files.paths import expanded
from train.files.untrusted import Tree, UntrustedFileError, convert, read_yaml
from train.text.display import shortened

# a value that at least this share of the training images show belongs to them
MIN_SHOWN_SHARE = 0.1
MAX_PROMPT_CHARACTERS = 20_000  # characters of a prompt
SEEDS = 100_000  # that begin with the same `probes.seed`
MIN_VALUES = 2  # the least number of values of each part that probes ask for


@dataclass(frozen=True)
class Probe:
    """A prompt and a seed, for one image.

    Attributes:
        prompt: for the checkpoint.
        base_prompt: the same without the trigger word, for the base alone.
        seed: of the noise.
        role: fresh, caption or class.
        asked: part -> the value that the prompt asks for; without the parts that it leaves open.
    """

    prompt: str
    base_prompt: str
    seed: int
    role: str
    asked: dict[str, str]


@dataclass(frozen=True)
class ProbeSet:
    """All probes of a study.

    Attributes:
        training: part -> the values that the training images show.
    """

    probes: list[Probe]
    values: AttributeBank
    class_word: str
    training: dict[str, list[str]]

    def rows(self, *roles: str) -> list[int]:
        """Indices of the probes with these roles."""
        return [i for i, probe in enumerate(self.probes) if probe.role in roles]

    def chosen(self, rows: Sequence[int]) -> ProbeSet:
        """The probes with these indices, in this order."""
        return replace(self, probes=[self.probes[row] for row in rows])

    def dealt(self, rounds: int) -> ProbeSet:
        """The same probes in an order in which each of `rounds` equal parts has all roles."""
        return replace(
            self, probes=[p for part in range(rounds) for p in self.probes[part::rounds]]
        )

    def repeated(self, count: int, seed: int) -> ProbeSet:
        """`count` probes with the prompts of this set, in turn, and with other noise."""
        chosen = (self.probes[i % len(self.probes)] for i in range(count))
        seeds = (seed * SEEDS + i for i in range(count))
        probes = [replace(p, seed=s) for p, s in zip(chosen, seeds, strict=True)]
        return replace(self, probes=probes)

    def to_yaml(self) -> str:
        """A file that can be edited and passed back as `probes.file`."""
        return yaml.safe_dump(asdict(self), sort_keys=False, allow_unicode=True, width=100)


class _SavedProbe(msgspec.Struct, forbid_unknown_fields=True):
    prompt: Annotated[str, Meta(max_length=MAX_PROMPT_CHARACTERS)]
    base_prompt: Annotated[str, Meta(max_length=MAX_PROMPT_CHARACTERS)]
    seed: Annotated[int, Meta(ge=-(2**53), le=2**53)]
    role: Annotated[str, Meta(max_length=100)]
    asked: dict[Name, Words] = {}


class _SavedSet(msgspec.Struct):
    probes: Annotated[list[Tree], Meta(max_length=10_000)]
    values: SavedAttributes
    class_word: Words
    training: dict[Name, Annotated[list[Words], Meta(max_length=500)]]


def load_probe_set(file: str) -> ProbeSet:
    """Reads what `to_yaml` wrote, possibly edited.

    Raises:
        ConfigError: the file does not exist or is invalid; the message names the probe.
    """
    path = expanded(file)
    if not path.exists():
        raise ConfigError(f"probes.file: there is no file {shortened(file)}")
    try:
        saved = read_yaml(path, _SavedSet, MAX_BYTES)
        values = saved.values.checked()
        probes = [
            convert(probe, _SavedProbe, f"probe {number} of the file")
            for number, probe in enumerate(saved.probes)
        ]
    except (UntrustedFileError, TemplateError, OSError) as error:
        where = "" if isinstance(error, UntrustedFileError) else f"{shortened(path)} "
        raise ConfigError(f"probes.file: {where}{error}") from error
    parts = [part for options in values.kinds.values() for part in options]
    if missing := next((part for part in parts if part not in saved.training), None):
        raise ConfigError(f"probes.file: {shortened(path)} lacks training: {missing}")
    probe_set = ProbeSet(
        probes=[Probe(**msgspec.structs.asdict(probe)) for probe in probes],
        values=values,
        class_word=saved.class_word,
        training={part: saved.training[part] for part in parts},
    )
    _check(probe_set, file)
    return probe_set


def _check(probe_set: ProbeSet, file: str) -> None:
    if len(probe_set.rows(FRESH)) < MIN_VALUES:
        raise ConfigError(
            f"probes.file: {file} needs {MIN_VALUES} probes or more of the role {FRESH}"
        )
    for number, probe in enumerate(probe_set.probes):
        if probe.role not in (FRESH, CAPTION, CLASS):
            raise ConfigError(
                f"probes.file: probe {number} has the role {probe.role!r}; "
                f"there are {FRESH}, {CAPTION}, {CLASS}"
            )
        for part, value in probe.asked.items():
            if part not in probe_set.training or value not in probe_set.values.options(part):
                raise ConfigError(
                    f"probes.file: probe {number} asks for an unknown {shortened(part)}: "
                    f"{shortened(value)}"
                )


def make_probe_set(
    config: ProbesConfig,
    values: AttributeBank,
    dataset: Dataset,
    encoder: ClipEncoder,
    training_features: Tensor,
    labels_by_part: dict[str, list[str]],
) -> ProbeSet:
    """The probes for these training images; deterministic.

    A value belongs to the training set if a caption names it or at least a tenth of the images
    show it. Probes ask for all other values, each about equally often; for at least two of each
    part, the rarest first. One probe in eight is a training caption instead, and one in eight asks
    for the class without the trigger word.

    Args:
        training_features: (n, d) image features of the training images.
        labels_by_part: part -> the value that each training image shows; other parts are
            classified zero-shot by the encoder.
    """
    trigger = trigger_word(dataset.trigger)
    class_word = class_words(dataset.trigger, values)
    random = Random(config.seed)
    per_role = config.count // PROBES_PER_OTHER_ROLE
    captions = _captions(dataset, class_word, per_role)
    columns: dict[str, list[str]] = {}
    training: dict[str, list[str]] = {}
    for kind in KINDS:
        for part in values.kinds[kind]:
            labels = labels_by_part.get(part) or zero_shot(
                values, part, class_word, encoder, training_features
            )
            training[part], fresh = _split(values.options(part), labels, dataset)
            columns[part] = _column(fresh, config.count - len(captions), random)
    roles = [FRESH] * (config.count - per_role - len(captions)) + [CLASS] * per_role
    probes = []
    for i, role in enumerate(roles):
        asked_values = {part: column[i] for part, column in columns.items()}
        base_prompt = values.prompt(f"a {class_word}", asked_values)
        prompt_with_trigger = values.prompt(f"a {trigger} {class_word}", asked_values)
        prompt = base_prompt if role == CLASS else prompt_with_trigger
        probes.append(Probe(prompt, base_prompt, _seed(config, i), role, asked_values))
    for i, (prompt, base_prompt) in enumerate(captions, start=len(probes)):
        probes.append(Probe(prompt, base_prompt, _seed(config, i), CAPTION, {}))
    return ProbeSet(probes, values, class_word, training)


def _seed(config: ProbesConfig, number: int) -> int:
    return config.seed * SEEDS + number


def _captions(dataset: Dataset, class_word: str, count: int) -> list[tuple[str, str]]:
    """`count` training captions, cycling through the distinct ones; each also without the trigger
    word."""
    distinct = list(dict.fromkeys(image.caption for image in dataset.training))
    chosen = [distinct[i % len(distinct)] for i in range(count)]
    return [(caption, without_trigger(caption, dataset.trigger, class_word)) for caption in chosen]


def _split(options: list[str], labels: list[str], dataset: Dataset) -> tuple[list[str], list[str]]:
    """The values that the training set shows, and those to ask for."""
    captions = list({image.caption for image in dataset.training})
    shares = _shares(options, labels, captions)
    training = [value for value in options if shares[value] >= MIN_SHOWN_SHARE]
    fresh = [value for value in options if value not in training]
    if len(fresh) >= MIN_VALUES:
        return training, fresh
    by_share = sorted(options, key=lambda value: (shares[value], options.index(value)))
    return training, by_share[:MIN_VALUES]


def _shares(options: list[str], labels: list[str], captions: list[str]) -> Counter[str]:
    """The share of the training images that show each value; 1 and more if captions name it."""
    shares: Counter[str] = Counter()
    for value in labels:
        shares[value] += 1 / len(labels)  # type: ignore[assignment]
    for value in options:
        if named := sum(mentions(caption, value) for caption in captions):
            shares[value] = 1 + named
    return shares


def _column(values: list[str], count: int, random: Random) -> list[str]:
    """`count` values, each about equally often, in random order."""
    column = (values * (count // len(values) + 1))[:count]
    random.shuffle(column)
    return column
