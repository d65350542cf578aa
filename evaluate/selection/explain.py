"""Why a checkpoint was selected, in plain sentences."""

from __future__ import annotations

from evaluate.config import PolicyConfig
from evaluate.scorecard import Scorecard
from evaluate.selection.objective import (
    FIDELITIES,
    LOSS,
    deciding,
    paired_difference,
    total_violation,
    violations,
    worth,
)

# what a checkpoint over the limit does, for sentences like "58 % of the images ..."
FAULTS = {
    "pose_memorization": "repeat a training pose",
    "background_leak": "show a training background that was not asked for",
    "outfit_leak": "show the training outfit where another was asked for",
    "copying": "are copies of a training picture",
}
# why it was chosen, where limits had no say
RULES = {
    "last": "it is the last one",
    "epoch": "it was asked for",
    "min_validation_loss": "its validation loss is the lowest",
    "max_subject_fidelity": "its likeness is the greatest",
    "weighted": "its weighted sum of scores is the highest",
}


def explain(
    cards: list[Scorecard], pick: Scorecard, best: Scorecard, later: str, policy: PolicyConfig
) -> list[str]:
    """Two sentences: what it does well, and what it does not do wrong (or does least).

    A third one says by what was decided, where that was not the fidelity.
    """
    told = _explain(cards, pick, best, later, policy)
    return [*told, *filter(None, [decided_by(pick, policy), *_not_looked_at(pick, policy)])]


def _explain(
    cards: list[Scorecard], pick: Scorecard, best: Scorecard, later: str, policy: PolicyConfig
) -> list[str]:
    scores, name = pick.scores, pick.label.capitalize()
    learned = learned_by(pick)
    faults = describe_faults(pick, [n for n in policy.max if n in scores], policy)
    kept = f"Only {faults}" if faults else "No limits were set"
    if policy.rule in RULES:
        over = exceeded(pick, policy)
        said = f"WARNING: {describe_faults(pick, over, policy)}" if over else kept
        why = RULES[policy.rule]
        if policy.rule == "epoch" and pick.epoch > policy.epoch:
            why = f"it is the first that was scored, and epoch {policy.epoch} was asked for"
        return [f"{name} was taken since {why}; it {learned}.", f"{said}."]
    if total_violation(pick, policy) > 0:
        return [
            f"WARNING: every checkpoint is over a limit; {pick.label} is over by the least, "
            f"so use it with care: {describe_faults(pick, exceeded(pick, policy), policy)}.",
            f"{name} {learned}; train for fewer epochs, at a lower learning rate, or on more "
            "pictures.",
        ]
    how = f", the best overall of the epochs within the limits ({overall(pick)})"
    if not deciding(pick):
        how = ", and is the last of the epochs within the limits"
    if best.epoch != pick.epoch:
        how = (
            f", which no later epoch beats by more than chance ({best.label} reaches "
            f"{overall(best)} overall against {overall(pick)})"
        )
    if len(cards) == 1:
        how = ""
    return [f"{name} {learned}{how}.", f"{kept}{', while ' + later if later else ''}."]


def what_came_later(cards: list[Scorecard], pick: Scorecard, policy: PolicyConfig) -> str:
    """What the epochs after the pick did wrong: a failure, the worst limit broken, or a loss of
    fidelity."""
    after = sorted((c for c in cards if c.epoch > pick.epoch), key=lambda c: c.epoch)
    if failed := [card for card in after if card.failure]:
        return f"{failed[0].label} cannot be used: {failed[0].failure}"
    wrong = [card for card in after if _worse(card, pick, policy)]
    if wrong:
        first, worst = wrong[0], max(wrong, key=lambda c: total_violation(c, policy))
        name = max(_worse(worst, pick, policy), key=lambda n: violations(worst, policy)[n])
        said = fault(name, percent(worst.scores[name].value))
        if worst is first:
            return f"at {first.label} {said}"
        return f"from {first.label} on a limit is broken, and at {worst.label} {said}"
    if after:
        lost = paired_difference(pick, after[-1])
        if lost.value > lost.error:
            return f"{after[-1].label} falls back to {overall(after[-1])} overall"
    return ""


def learned_by(card: Scorecard) -> str:
    """ "has learned 80 % of the subject's likeness and follows prompts 90 % as well as ..."."""
    prompt, likeness = (card.scores.get(name) for name in FIDELITIES)
    parts = []
    if likeness is not None:
        parts.append(f"has learned {share_of(likeness.value)} of the subject's likeness")
    if prompt is not None:
        obeyed = percent(prompt.value)
        well = f"{obeyed} as well as the base model"
        how = f"not at all ({obeyed})" if obeyed.startswith("-") else well
        parts.append(f"follows prompts {how}")
    return " and ".join(parts) or "has a likeness and an obedience that cannot be told"


def decided_by(card: Scorecard, policy: PolicyConfig) -> str:
    """By what checkpoints were compared, in a sentence; empty where by what they should be."""
    if policy.rule == "weighted":
        absent = [name for name in policy.weights if name not in card.scores]
        return f"Left out of the sum, as it cannot be told: {', '.join(absent)}." if absent else ""
    names = deciding(card)
    if names == FIDELITIES or policy.rule in RULES:
        return ""
    if not names:
        return "Likeness cannot be told, so the last epoch within the limits is taken."
    if names == (LOSS,):
        return "Likeness cannot be told, so the loss on the held-out pictures decides."
    return "How well prompts are followed cannot be told, so the likeness alone decides."


def _not_looked_at(card: Scorecard, policy: PolicyConfig) -> list[str]:
    """The floors that could not be asked for, in a sentence."""
    absent = [name for name in policy.min if name not in card.scores]
    return [f"The floor of {', '.join(absent)} was not asked for."] if absent else []


def overall(card: Scorecard) -> str:
    """What it is compared by, in letters: its fidelity, or the loss that stands in for it."""
    if deciding(card) == (LOSS,):
        return f"a validation loss of {card.scores[LOSS].value:.3f}"
    return f"{worth(card):.2f}"


def exceeded(card: Scorecard, policy: PolicyConfig) -> list[str]:
    """The scores that are over their limits, or below their floors."""
    return [name for name, over in violations(card, policy).items() if over > 0]


def _worse(card: Scorecard, pick: Scorecard, policy: PolicyConfig) -> list[str]:
    """Where it breaks a limit, and not for the width of the interval alone."""

    def change(name: str) -> float:
        if name not in pick.scores:
            return 1.0
        gain = card.scores[name].value - pick.scores[name].value
        return -gain if name in policy.min else gain

    return [name for name in exceeded(card, policy) if change(name) > 0]


def describe_faults(card: Scorecard, names: list[str], policy: PolicyConfig) -> str:
    """ "4 % (surely below 12 %) of the images repeat a training pose and ..."."""
    parts = [fault(name, _doubt(card, name, policy)) for name in names]
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def _doubt(card: Scorecard, name: str, policy: PolicyConfig) -> str:
    """A score in percent, with the bound that counts and, where that is broken, the limit."""
    value, low, high = map(percent, card.scores[name])
    broken = violations(card, policy)[name] > 0
    if name in policy.min:
        floor = percent(policy.min[name])
        doubt = f"perhaps only {low}, where {floor} is wanted" if broken else f"surely {low}"
    else:
        limit = percent(policy.max[name])
        doubt = f"perhaps {high}, where {limit} is the limit" if broken else f"surely below {high}"
    return f"{value} ({doubt})"


def fault(name: str, share: str) -> str:
    """What a checkpoint that is over the limit of a score does to such a share."""
    if name == "prompt_fidelity":
        return f"prompts are followed only {share} as well as by the base"
    return f"{share} of the images {FAULTS.get(name, f'are over the limit of {name}')}"


def percent(share: float) -> str:
    """A share in words of print: 0.58 -> 58 %."""
    return f"{100 * share:.0f} %".replace("-0 %", "0 %")


def share_of(likeness: float) -> str:
    """A likeness in words: 0.58 -> 58 %; below that of the bare base -> nothing (-13 %)."""
    figure = percent(likeness)
    return f"nothing ({figure})" if figure.startswith("-") else figure
