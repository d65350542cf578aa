"""Why a checkpoint was selected, in plain sentences."""

from __future__ import annotations

from evaluate.choice.merit import excess, fidelity, lead, violations
from evaluate.config import PolicyConfig
from evaluate.scorecard import Scorecard

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
    """Two sentences: what it does well, and what it does not do wrong (or does least)."""
    scores, name = pick.scores, pick.label.capitalize()
    learned = (
        f"has learned {percent(scores['subject_fidelity'].value)} of the subject's likeness and "
        f"follows prompts {percent(scores['prompt_fidelity'].value)} as well as the base model"
    )
    faults = describe_faults(pick, [n for n in policy.limits if n in scores], policy)
    kept = f"Only {faults}" if faults else "No limits were set"
    if policy.rule in RULES:
        over = exceeded(pick, policy)
        said = f"WARNING: {describe_faults(pick, over, policy)}" if over else kept
        why = RULES[policy.rule]
        return [f"{name} was taken since {why}; it {learned}.", f"{said}."]
    if excess(pick, policy) > 0:
        return [
            f"WARNING: every checkpoint is over a limit; {pick.label} is over by the least, "
            f"so use it with care: {describe_faults(pick, exceeded(pick, policy), policy)}.",
            f"{name} {learned}; train for fewer epochs, at a lower learning rate, or on more "
            "pictures.",
        ]
    how = f", the best overall of the epochs within the limits ({fidelity(pick):.2f})"
    if best.epoch != pick.epoch:
        how = (
            f", which no later epoch beats by more than chance ({best.label} reaches "
            f"{fidelity(best):.2f} overall against {fidelity(pick):.2f})"
        )
    if len(cards) == 1:
        how = ""
    return [f"{name} {learned}{how}.", f"{kept}{', while ' + later if later else ''}."]


def what_came_later(cards: list[Scorecard], pick: Scorecard, policy: PolicyConfig) -> str:
    """What the epochs after the pick did wrong: the worst limit broken, or a loss of fidelity."""
    after = sorted((c for c in cards if c.epoch > pick.epoch), key=lambda c: c.epoch)
    wrong = [card for card in after if _worse(card, pick, policy)]
    if wrong:
        first, worst = wrong[0], max(wrong, key=lambda c: excess(c, policy))
        name = max(_worse(worst, pick, policy), key=lambda n: violations(worst, policy)[n])
        said = fault(name, percent(worst.scores[name].value))
        if worst is first:
            return f"at {first.label} {said}"
        return f"from {first.label} on a limit is broken, and at {worst.label} {said}"
    if after:
        lost = lead(pick, after[-1])
        if lost.value > lost.error:
            return f"{after[-1].label} falls back to {fidelity(after[-1]):.2f} overall"
    return ""


def exceeded(card: Scorecard, policy: PolicyConfig) -> list[str]:
    """The scores that are over their limits, or below their floors."""
    return [name for name, over in violations(card, policy).items() if over > 0]


def _worse(card: Scorecard, pick: Scorecard, policy: PolicyConfig) -> list[str]:
    """Where it breaks a limit, and not for the width of the interval alone."""

    def change(name: str) -> float:
        gain = card.scores[name].value - pick.scores[name].value
        return -gain if name in policy.floors else gain

    return [name for name in exceeded(card, policy) if change(name) > 0]


def describe_faults(card: Scorecard, names: list[str], policy: PolicyConfig) -> str:
    """ "4 % (surely below 12 %) of the images repeat a training pose and ..."."""
    parts = [fault(name, _doubt(card, name, policy)) for name in names]
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def _doubt(card: Scorecard, name: str, policy: PolicyConfig) -> str:
    """A score in percent, with the bound that counts and, where that is broken, the limit."""
    value, low, high = map(percent, card.scores[name])
    broken = violations(card, policy)[name] > 0
    if name in policy.floors:
        floor = percent(policy.floors[name])
        doubt = f"perhaps only {low}, where {floor} is wanted" if broken else f"surely {low}"
    else:
        limit = percent(policy.limits[name])
        doubt = f"perhaps {high}, where {limit} is the limit" if broken else f"surely below {high}"
    return f"{value} ({doubt})"


def fault(name: str, share: str) -> str:
    """What a checkpoint that is over the limit of a score does to such a share."""
    if name == "prompt_fidelity":
        return f"prompts are followed only {share} as well as by the base"
    return f"{share} of the images {FAULTS.get(name, f'are over the limit of {name}')}"


def percent(share: float) -> str:
    """A share in words of print: 0.58 -> 58 %."""
    return f"{100 * share:.0f} %"
