"""verdict.json: everything that a final saw, so that it can be decided again without a model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from evaluate.config import FinalConfig, PolicyConfig
from evaluate.scorecard import FIDELITIES, SavedCard, Scorecard, Text
from evaluate.selection.final_rounds import play
from evaluate.selection.objective import deciding_scores
from evaluate.selection.verdict import Finalist, Verdict, limit_probabilities
from train.config.ranges import range_errors
from train.files.atomic_write import write_atomically
from train.files.untrusted import Tree, UntrustedFileError, convert, read_json

VERDICT_FILE = "verdict.json"
WITH_FINAL = ("overfit_aware",)  # rules whose choice depends on the fidelity and the limits
MAX_BYTES = 100_000_000  # the largest final that `FinalConfig` allows has some 20 million bytes
MIN_VALUES = 2  # of each deciding score after a round


def has_final(final: FinalConfig, policy: PolicyConfig) -> bool:
    """Whether a final decides with these settings."""
    return final.contenders > 0 and policy.rule in WITH_FINAL


class _SavedFinalist(msgspec.Struct):
    first: SavedCard
    order: Annotated[list[int], Meta(max_length=10)]
    cards: Annotated[list[SavedCard], Meta(max_length=100)]
    failure: Text = ""
    trial: Annotated[int, Meta(ge=0)] | None = None
    group: Annotated[int, Meta(ge=0)] = 0


class _SavedVerdict(msgspec.Struct):
    key: str
    final: Tree
    finalists: Annotated[list[_SavedFinalist], Meta(max_length=100)]


class SavedFinal(msgspec.Struct):
    """A final from a file.

    Attributes:
        key: says of which checkpoints, probes and settings it is.
    """

    key: str
    config: FinalConfig
    finalists: list[Finalist]


def save_verdict(file: Path, key: str, verdict: Verdict, config: FinalConfig,
                 policy: PolicyConfig) -> None:  # fmt: skip
    """Writes the scorecards of all finalists after each of their rounds, and the decisions."""
    content = {
        "key": key,
        "final": asdict(config),
        **summary(verdict, policy),
        "finalists": [
            {
                "first": f.first.to_dict(),
                "trial": f.trial,
                "group": f.group,
                "order": list(f.order),
                "out": f.out,
                "failure": f.failure,
                "probabilities": f.probabilities,
                "cards": [_without_spare(card).to_dict() for card in f.cards],
            }
            for f in verdict.finalists
        ],
    }
    write_atomically(file, json.dumps(content, indent=1).encode())


def summary(verdict: Verdict, policy: PolicyConfig) -> dict[str, Any]:
    """The verdict in figures, for result.json."""
    winner, other = verdict.winner, verdict.runner_up
    return {
        "winner": _name(winner),
        "probability": winner.probability,
        "tolerance": verdict.tolerance,
        "ties": [_name(f) for f in verdict.ties],
        "runner_up": {**_name(other), "behind": verdict.lead} if other else None,
        "limits": limit_probabilities(winner.final, policy),
    }


def mlflow_tags(verdict: Verdict, policy: PolicyConfig) -> dict[str, str]:
    """The verdict as tags of a run."""
    content = summary(verdict, policy)
    tags = {
        "final.probability": f"{verdict.winner.probability:.3f}",
        "final.tolerance": f"{verdict.tolerance:g}",
        "final.fresh_prompts": str(verdict.prompts),
        "final.ties": ", ".join(finalist.label for finalist in verdict.ties),
    }
    if verdict.runner_up:
        tags |= {"final.runner_up": verdict.runner_up.label, "final.behind": f"{verdict.lead:.4f}"}
    limits = {f"final.limits.{name}": f"{p:.3f}" for name, p in content["limits"].items()}
    return tags | limits


def _name(finalist: Finalist) -> dict[str, Any]:
    trial = {} if finalist.trial is None else {"trial": finalist.trial}
    return {**trial, "epoch": finalist.first.epoch, "file": finalist.first.checkpoint.name}


def load_final(file: Path) -> SavedFinal | None:
    """The final in a file; None if there is no such file.

    Raises:
        UntrustedFileError: it is damaged, or not what `save_verdict` writes.
    """
    try:
        saved = read_json(file, _SavedVerdict, MAX_BYTES)
    except FileNotFoundError:
        return None
    config = convert(saved.final, FinalConfig, f"{file}: final")
    finalists = [
        Finalist(
            Scorecard.of(f.first),
            tuple(f.order),
            [Scorecard.of(card) for card in f.cards],
            failure=f.failure,
            trial=f.trial,
            group=f.group,
        )
        for f in saved.finalists
    ]
    for complaint in (*range_errors(config, "final."), *_complaints(finalists, config)):
        raise UntrustedFileError(f"{file}: {complaint}")
    return SavedFinal(saved.key, config, finalists)


def _without_spare(card: Scorecard) -> Scorecard:
    """A scorecard with only those probes that a decision needs."""
    needed = {name: card.by_probe[name] for name in FIDELITIES if name in card.by_probe}
    return replace(card, by_probe=needed)


def _complaints(finalists: list[Finalist], config: FinalConfig) -> Iterator[str]:
    """What a final cannot be decided with."""
    if not all(len(f.cards) <= config.rounds for f in finalists):
        yield "a finalist has more rounds than the final"
    names = {deciding_scores(f.first) for f in finalists}
    if len(names) != 1 or not names <= {FIDELITIES, FIDELITIES[1:]}:
        yield "its finalists do not have the same scores"
        return
    deciding = names.pop()
    for cards in zip_longest(*(f.cards for f in finalists)):
        observed = [card.by_probe for card in cards if card is not None]
        lengths = {len(values.get(name, [])) for values in observed for name in deciding}
        if len(lengths) > 1 or min(lengths) < MIN_VALUES:
            yield "its finalists were not scored on the same probes"


def replay(
    finalists: Sequence[Finalist], config: FinalConfig, policy: PolicyConfig
) -> Verdict | None:
    """Decides a saved final again, perhaps under other limits.

    A finalist that these would have kept in longer takes part as far as it was scored.
    """
    again = [replace(f, cards=[], out="", probabilities=[]) for f in finalists]
    saved = {id(new): old.cards for new, old in zip(again, finalists, strict=True)}

    def score(look: int, finalist: Finalist) -> None:
        cards = saved[id(finalist)]
        if len(cards) < look:
            finalist.out = finalist.failure or f"not scored after round {look - 1}"
        else:
            finalist.cards.append(cards[look - 1])

    return play(again, score, config, policy)
