"""Explains in plain sentences why a checkpoint was selected."""

from __future__ import annotations

from evaluate.config import PolicyConfig
from evaluate.scorecard import Scorecard
from evaluate.selection.objective import (
    FIDELITIES,
    LOSS,
    comparison_value,
    deciding_scores,
    paired_difference,
    total_violation,
    violations,
)

# what a checkpoint beyond the limit does, for sentences like "58% of the images ..."
FAULTS = {
    "pose_memorization": "come close to a training pose",
    "background_leak": "show a training background that was not asked for",
    "outfit_leak": "show the training outfit where another was asked for",
    "copying": "are copies of a training image",
}
# why it was chosen by a rule without limits
RULE_REASONS = {
    "last": "it is the last one",
    "epoch": "it was asked for",
    "min_validation_loss": "its validation loss is the lowest",
    "max_subject_fidelity": "its likeness is the greatest",
    "weighted": "its weighted sum of scores is the highest",
}


def explain(
    cards: list[Scorecard], selected: Scorecard, best: Scorecard, later: str, policy: PolicyConfig
) -> list[str]:
    """Two sentences: what the checkpoint does well, and what it does not do wrong (or least).

    Further ones name the earlier epochs that were left out, the deciding score if it was not the
    fidelity, and the minimums that were not checked.
    """
    sentences = _explain(cards, selected, best, later, policy)
    return [
        *sentences,
        *filter(
            None,
            [
                _left_out(cards, selected, policy),
                deciding_sentence(selected, policy),
                *_not_required(selected, policy),
            ],
        ),
    ]


def _explain(
    cards: list[Scorecard], selected: Scorecard, best: Scorecard, later: str, policy: PolicyConfig
) -> list[str]:
    scores, name = selected.scores, selected.label.capitalize()
    learned = describe_learning(selected)
    faults = describe_faults(selected, [n for n in policy.max if n in scores], policy)
    within = f"At this epoch {faults}" if faults else "No limits were set"
    if policy.rule in RULE_REASONS:
        over = exceeded(selected, policy)
        summary = f"WARNING: {describe_faults(selected, over, policy)}" if over else within
        why = RULE_REASONS[policy.rule]
        if policy.rule == "epoch" and selected.epoch > policy.epoch:
            why = f"it is the first that was scored, and epoch {policy.epoch} was asked for"
        if policy.rule == "epoch" and selected.epoch < policy.epoch:
            why = f"it is the last that was scored up to epoch {policy.epoch}, which was asked for"
        return [f"{name} was selected because {why}; it {learned}.", f"{summary}."]
    if total_violation(selected, policy) > 0:
        return [
            f"WARNING: every checkpoint is over a limit; {selected.label} is over by the least, so "
            f"use it with care: {describe_faults(selected, exceeded(selected, policy), policy)}.",
            f"{name} {learned}; train for fewer epochs, at a lower learning rate, or on more "
            "images.",
        ]
    reached, highest = format_comparison_value(selected), format_comparison_value(best)
    how = f"; its fidelity, {reached}, is the best of the epochs within the limits"
    if not deciding_scores(selected):
        how = ", and is the last of the epochs within the limits"
    if best.epoch != selected.epoch:
        how = (
            f", which no later epoch beats by more than chance ({best.label} reaches "
            f"a fidelity of {highest} against {reached})"
        )
    if len(cards) == 1:
        how = ""
    return [f"{name} {learned}{how}.", f"{within}{', while ' + later if later else ''}."]


def _left_out(cards: list[Scorecard], selected: Scorecard, policy: PolicyConfig) -> str:
    """Which earlier epochs are over a limit, in a sentence; empty if none is, or if it is too."""
    earlier = [card for card in cards if card.epoch < selected.epoch and exceeded(card, policy)]
    if policy.rule in RULE_REASONS or not earlier or exceeded(selected, policy):
        return ""
    reasons = ", ".join(f"{card.label} ({describe_exceeded(card, policy)})" for card in earlier)
    return f"Before it, over a limit: {reasons}."


def describe_later(cards: list[Scorecard], selected: Scorecard, policy: PolicyConfig) -> str:
    """What later epochs did wrong: a failure, the worst limit broken, or a loss of fidelity."""
    after = sorted((c for c in cards if c.epoch > selected.epoch), key=lambda c: c.epoch)
    if failed := [card for card in after if card.failure]:
        return f"{failed[0].label} cannot be used: {failed[0].failure}"
    wrong = [card for card in after if _worse(card, selected, policy)]
    if wrong:
        first, worst = wrong[0], max(wrong, key=lambda c: total_violation(c, policy))
        name = max(_worse(worst, selected, policy), key=lambda n: violations(worst, policy)[n])
        description = describe_fault(name, format_percent(worst.scores[name].value))
        if worst is first:
            return f"at {first.label} {description}"
        return f"from {first.label} on a limit may be exceeded, and at {worst.label} {description}"
    if after:
        loss = paired_difference(selected, after[-1])
        if loss.value > loss.error:
            fallen = format_comparison_value(after[-1])
            return f"{after[-1].label} falls back to a fidelity of {fallen}"
    return ""


def describe_learning(card: Scorecard) -> str:
    """ "has learned 80% of the subject's likeness and follows prompts 90% as well as ..."."""
    prompt, likeness = (card.scores.get(name) for name in FIDELITIES)
    parts = []
    if likeness is not None:
        parts.append(f"has learned {format_likeness(likeness.value)} of the subject's likeness")
    if prompt is not None:
        share = format_percent(prompt.value)
        well = f"{share} as well as the base model"
        how = f"not at all ({share})" if share.startswith("-") else well
        parts.append(f"follows prompts {how}")
    return " and ".join(parts) or "has fidelities that cannot be measured"


def deciding_sentence(card: Scorecard, policy: PolicyConfig) -> str:
    """The score that decided, in a sentence; empty if it was the one that should."""
    if policy.rule == "weighted":
        undefined = [name for name in policy.weights if name not in card.scores]
        if not undefined:
            return ""
        return f"Left out of the sum because it cannot be measured: {', '.join(undefined)}."
    names = deciding_scores(card)
    if names == FIDELITIES or policy.rule in RULE_REASONS:
        return ""
    if not names:
        return "Likeness cannot be measured, so the last epoch within the limits is selected."
    if names == (LOSS,):
        return "Likeness cannot be measured, so the loss on the held-out images decides."
    return "How well prompts are followed cannot be measured, so the likeness alone decides."


def _not_required(card: Scorecard, policy: PolicyConfig) -> list[str]:
    """The minimums that could not be checked, in a sentence."""
    undefined = [name for name in policy.min if name not in card.scores]
    return [f"The minimum of {', '.join(undefined)} was not checked."] if undefined else []


def format_comparison_value(card: Scorecard) -> str:
    """The value that decides, in words: the fidelity, or the loss that replaces it."""
    if deciding_scores(card) == (LOSS,):
        return f"a validation loss of {card.scores[LOSS].value:.3f}"
    return f"{comparison_value(card):.2f}"


def exceeded(card: Scorecard, policy: PolicyConfig) -> list[str]:
    """The scores that are beyond their max or min."""
    return [name for name, over in violations(card, policy).items() if over > 0]


def exceeded_by_estimate(card: Scorecard, policy: PolicyConfig) -> list[str]:
    """The scores whose estimate, and not only a confidence bound, is beyond their max or min."""
    scores = card.scores
    over = [
        name for name, most in policy.max.items() if name in scores and scores[name].value > most
    ]
    under = [n for n, least in policy.min.items() if n in scores and scores[n].value < least]
    return over + under


def describe_exceeded(card: Scorecard, policy: PolicyConfig) -> str:
    """`outfit_leak may be 0.412 (limit 0.35)` for the score that is furthest beyond its max or min;
    empty if none is."""
    over = violations(card, policy)
    name = max(over, key=lambda name: over[name], default="")
    if not name or over[name] <= 0:
        return ""
    if name in policy.min:
        return f"{name} may be {card.scores[name].low:.3f} (minimum {policy.min[name]:g})"
    return f"{name} may be {card.scores[name].high:.3f} (limit {policy.max[name]:g})"


def _worse(card: Scorecard, selected: Scorecard, policy: PolicyConfig) -> list[str]:
    """The limits that it breaks by the estimate too, not only by a wider interval."""

    def change(name: str) -> float:
        if name not in selected.scores:
            return 1.0
        gain = card.scores[name].value - selected.scores[name].value
        return -gain if name in policy.min else gain

    return [name for name in exceeded(card, policy) if change(name) > 0]


def describe_faults(card: Scorecard, names: list[str], policy: PolicyConfig) -> str:
    """ "4% (at most 12%) of the images come close to a training pose and ..."."""
    parts = [describe_fault(name, _format_with_bound(card, name, policy)) for name in names]
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def _format_with_bound(card: Scorecard, name: str, policy: PolicyConfig) -> str:
    """A score in percent, with the bound that counts and, if it is broken, the limit."""
    value, low, high = map(format_percent, card.scores[name])
    broken = violations(card, policy)[name] > 0
    if name in policy.min:
        floor = format_percent(policy.min[name])
        doubt = f"possibly only {low}; the minimum is {floor}" if broken else f"at least {low}"
    else:
        limit = format_percent(policy.max[name])
        doubt = f"possibly {high}; the limit is {limit}" if broken else f"at most {high}"
    return f"{value} ({doubt})"


def describe_fault(name: str, share: str) -> str:
    """What a checkpoint that is beyond the limit of a score does to this share."""
    if name == "prompt_fidelity":
        return f"prompts are followed only {share} as well as by the base"
    return f"{share} of the images {FAULTS.get(name, f'are over the limit of {name}')}"


def format_percent(share: float) -> str:
    """A share in percent: 0.58 -> 58%."""
    return f"{100 * share:.0f}%".replace("-0%", "0%")


def format_likeness(likeness: float) -> str:
    """A likeness in words: 0.58 -> 58%; below the base's -> nothing (-13%)."""
    figure = format_percent(likeness)
    return f"nothing ({figure})" if figure.startswith("-") else figure
