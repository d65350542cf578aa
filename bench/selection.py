"""Which epoch each rule keeps, and how much of the best epoch's worth is lost by it.

`python -m bench.selection` (3 hours on 2 cores; it can be interrupted and goes on) trains the LoRAs
of `bench.loras`, has the judge look at 512 pictures of each checkpoint, scores each by the default
probes twice and by the small set once, and writes results/selection.json, .md and .png.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torchmetrics.functional import pearson_corrcoef, spearman_corrcoef

from bench.loras import COUNT, FOLDER, ROUNDS, SETS, Lora, load_truth, lora, make_loras
from evaluate.config import PolicyConfig, ProbesConfig, ScoresConfig
from evaluate.prompts.roles import FRESH
from evaluate.scorecard import Scorecard
from evaluate.scorer import Scorer
from evaluate.selection.objective import comparison_value
from evaluate.selection.policy import select
from sweeper.config import SweepConfig
from train.cli.app import configure_logging
from train.cli.compose import settings
from train.config.schema import BaseConfig
from train.data.dataset import load_dataset
from train.files.atomic_write import write_atomically
from train.lora.checkpoint_file import epoch_of
from train.models.base_model import load_base

log = logging.getLogger(__name__)
RESULTS = Path(__file__).parent / "results"
LORAS = [lora(number) for number in range(COUNT)]
BUDGETS: dict[str, dict[str, Any]] = {
    "default": {},
    "other seeds": {"seed": 2},
    "small": {"count": 16},
}
OURS, OURS_SMALL = "ours", "ours, small probe set"
WORTHLESS = 0.05
GUIDE = (16, 18, 20)  # "the 15th to 20th epoch": the mean of those that were saved
# score -> what the judge sees of it
TRUTHS = {"subject_fidelity": "identity", "prompt_fidelity": "obeyed",
          "pose_memorization": "training pose", "background_leak": "training background",
          "fidelity": "quality"}  # fmt: skip
Row = dict[str, Any]


def score_loras(budget: str) -> None:
    """Scores all the checkpoints with a budget of probes; what is there is not scored again."""
    default = settings("sweep", SweepConfig)
    probes = replace(default.probes, **BUDGETS[budget])
    for number, chosen in enumerate(SETS):
        made = [one for one in LORAS if one.data_set == chosen]
        if all(score_file(one, budget).is_file() for one in made):
            continue
        scorer = scorer_of(lora(number), probes, default.scores)
        for one in made:
            if not score_file(one, budget).is_file():
                rows = [score(scorer, checkpoint) for checkpoint in one.checkpoints]
                write_atomically(score_file(one, budget), json.dumps(rows).encode())
                log.info("%s probes: LoRA %d scored", budget, one.number)


def scorer_of(made: Lora, probes: ProbesConfig, scores: ScoresConfig) -> Scorer:
    """The product's own scorer, for the pictures that a LoRA was trained on."""
    pictures = load_dataset(made.config.data)
    base = load_base(BaseConfig(device="cpu"))
    return Scorer(base, pictures, made.config.data, probes, scores, FOLDER.parent / "cache")


def score_file(made: Lora, budget: str) -> Path:
    """Where its scorecards are kept."""
    return made.folder / "scores" / f"{budget.replace(' ', '-')}.json"


def score(scorer: Scorer, checkpoint: Path) -> Row:
    """The scorecard of a checkpoint, and the plain CLIP similarities that others go by."""
    card = scorer({checkpoint: epoch_of(checkpoint)})[0]
    rows = scorer.probe_set.rows(FRESH)
    prompts = [scorer.probe_set.probes[row].base_prompt for row in rows]
    assert card.images is not None
    images = torch.from_numpy(card.images[rows]).permute(0, 3, 1, 2).float() / 255
    encoder = scorer.extractor.encoder
    features, training = (
        encoder.image_features(images),
        encoder.image_features(scorer.training_images),
    )
    return {
        "card": card.to_dict(),
        "clip_image": float((features @ training.T).mean()),
        "clip_text": float((features * encoder.text_features(prompts)).sum(-1).mean()),
    }


def load_scores(made: Lora, budget: str) -> tuple[list[Scorecard], list[Row]]:
    """The scorecards of a LoRA, by epoch."""
    rows = json.loads(score_file(made, budget).read_text())
    return [Scorecard.from_dict(row["card"]) for row in rows], rows


def picks(made: Lora, policy: PolicyConfig) -> dict[str, list[int]]:
    """rule -> the epochs that it may keep (one; for the guide's rule any of some)."""
    cards, rows = load_scores(made, "default")
    few, _ = load_scores(made, "small")
    epochs = [card.epoch for card in cards]

    def highest(values: list[float]) -> list[int]:
        return [epochs[max(range(len(values)), key=lambda i: values[i])]]

    return {
        "last epoch": [max(epochs)],
        "the guide's epoch 15 to 20": list(GUIDE),
        "lowest validation loss": highest([-c.scores["validation_loss"].value for c in cards]),
        "highest CLIP image similarity": highest([row["clip_image"] for row in rows]),
        "highest CLIP text similarity": highest([row["clip_text"] for row in rows]),
        OURS: [select(cards, policy).scorecard.epoch],
        OURS_SMALL: [select(few, policy).scorecard.epoch],
    }


def regrets(policy: PolicyConfig) -> list[Row]:
    """For each LoRA the share of the best epoch's worth that each rule's choice loses.

    Without those of which no epoch is worth anything: there is nothing to lose.
    """
    rows = []
    for made in LORAS:
        quality = {epoch: seen["quality"] for epoch, seen in load_truth(made).items()}
        best = max(quality, key=lambda epoch: quality[epoch])
        if quality[best] < WORTHLESS:
            log.info("LoRA %d (%s) is worth nothing at any epoch", made.number, made.describe())
            continue
        chosen = picks(made, policy)
        lost = {rule: sum(quality[best] - quality[e] for e in epochs) / len(epochs) / quality[best]
                for rule, epochs in chosen.items()}  # fmt: skip
        rows.append({"lora": made.number, "pictures": made.data_set.name,
                     "settings": made.describe(), "quality": quality, "best": best,
                     "picks": chosen, "regret": lost})  # fmt: skip
    return rows


def correlation(a: list[float], b: list[float], by_rank: bool = False) -> float:
    """Pearson's, or by rank Spearman's."""
    measure = spearman_corrcoef if by_rank else pearson_corrcoef
    return float(measure(torch.tensor(a), torch.tensor(b)))


def stability() -> dict[str, float]:
    """Rank correlation of the checkpoints' fidelity between two seeds of the probes."""
    found: dict[str, list[list[float]]] = {}
    for budget in ("default", "other seeds"):
        cards = [load_scores(made, budget)[0] for made in LORAS]
        found[budget] = [[comparison_value(card) for card in some] for some in cards]
    first, second = found.values()
    within = [correlation(a, b, by_rank=True) for a, b in zip(first, second, strict=True)]
    pooled = [[value for part in parts for value in part] for parts in (first, second)]
    return {"all checkpoints": correlation(pooled[0], pooled[1], by_rank=True),
            "within a LoRA, mean": sum(within) / len(within)}  # fmt: skip


def followed() -> dict[str, dict[str, float]]:
    """How each score follows what the judge sees in other pictures of the same checkpoint."""
    found = {}
    for name, seen in TRUTHS.items():
        values, truths = [], []
        for made in LORAS:
            truth = load_truth(made)
            for card in load_scores(made, "default")[0]:
                if name != "fidelity" and name not in card.scores:
                    continue  # it cannot be told with these pictures
                values.append(
                    comparison_value(card) if name == "fidelity" else card.scores[name].value
                )
                truths.append(truth[card.epoch][seen])
        found[name] = {"pearson": correlation(values, truths),
                       "spearman": correlation(values, truths, by_rank=True)}  # fmt: skip
    return found


def summary(rows: list[Row]) -> dict[str, dict[str, float]]:
    """mean_regret and worst_regret of each rule."""
    by_rule = {rule: [row["regret"][rule] for row in rows] for rule in rows[0]["regret"]}
    return {"mean_regret": {rule: sum(v) / len(v) for rule, v in by_rule.items()},
            "worst_regret": {rule: max(v) for rule, v in by_rule.items()}}  # fmt: skip


def table(rows: list[Row], found: Row) -> str:
    """The result, for people."""
    read = [seen["pictures"] for made in LORAS for seen in load_truth(made).values()]
    stable = ", ".join(f"{name} {value:.2f}" for name, value in found["stability"].items())
    lines = ["# Which epoch to keep", "",
             f"{len(rows)} LoRAs, 10 checkpoints each ({len(LORAS) - len(rows)} more diverged: no "
             f"checkpoint of theirs is worth anything). The truth: {min(read):.0f} pictures a "
             "checkpoint of wishes by lot, read by the judge. Worth: geometric mean of the "
             "identity and the share that is right in every part. Regret: share of the best "
             "checkpoint's worth that is lost.", ""]  # fmt: skip
    lines += ["| rule | mean regret | worst regret |", "|---|---|---|"]
    for rule, mean in sorted(found["mean_regret"].items(), key=lambda item: item[1]):
        lines.append(f"| {rule} | {mean:.3f} | {found['worst_regret'][rule]:.3f} |")
    lines += ["", f"Rank correlation between two seeds of the default probes: {stable}.", ""]
    lines += ["| score | what the judge sees | Pearson | Spearman |", "|---|---|---|---|"]
    for name, row in found["follows"].items():
        cells = f"{row['pearson']:.2f} | {row['spearman']:.2f}"
        lines.append(f"| {name} | {TRUTHS[name]} | {cells} |")
    headings = "LoRA | pictures | settings | best epoch: worth | ours | last | regret of ours"
    lines += ["", f"| {headings} |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        quality, ours = row["quality"], row["picks"][OURS][0]
        best, last = row["best"], max(quality)
        lines.append(f"| {row['lora']} | {row['pictures']} | {row['settings']} | {best}: "
                     f"{quality[best]:.2f} | {ours}: {quality[ours]:.2f} | {quality[last]:.2f} | "
                     f"{row['regret'][OURS]:.3f} |")  # fmt: skip
    return "\n".join([*lines, ""])


def plot(rows: list[Row]) -> Figure:
    """Each LoRA's regret by rule, and each LoRA's worth over its epochs with what was kept."""
    figure = Figure(figsize=(14, 5.5), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.2))
    rules = sorted(rows[0]["regret"], key=lambda r: -sum(row["regret"][r] for row in rows))
    for y, rule in enumerate(rules):
        values = [row["regret"][rule] for row in rows]
        color = "#d9480f" if rule.startswith(OURS) else "#868e96"
        left.scatter(values, [y] * len(values), color=color, alpha=0.45, s=24)
        left.scatter([sum(values) / len(values)], [y], color=color, marker="|", s=500)
    left.set_yticks(range(len(rules)), rules)
    left.set_xlabel("regret (dot: a LoRA, bar: the mean)")
    left.set_title("what each rule loses", loc="left")
    left.grid(alpha=0.2)
    for row in rows:
        epochs, ours = [*row["quality"]], row["picks"][OURS][0]
        right.plot(epochs, [*row["quality"].values()], color="#868e96", alpha=0.5, linewidth=1)
        right.scatter([ours], [row["quality"][ours]], color="#d9480f", s=36, zorder=3)
        right.scatter([row["best"]], [row["quality"][row["best"]]], marker="^", s=30, zorder=2,
                      color="#1864ab")  # fmt: skip
    right.scatter([], [], color="#d9480f", label="kept by ours")
    right.scatter([], [], color="#1864ab", marker="^", label="truly the best")
    right.set_xlabel("epoch")
    right.set_ylabel("worth, by the judge")
    right.set_title("each LoRA's worth over its epochs", loc="left")
    right.legend()
    right.grid(alpha=0.2)
    return figure


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.selection", description=__doc__)
    parser.add_argument("--rounds", default=ROUNDS, type=int, help="of 128 pictures a checkpoint")
    configure_logging()
    rounds = parser.parse_args().rounds
    make_loras(rounds)
    for budget in BUDGETS:
        score_loras(budget)
    policy = settings("sweep", SweepConfig).selection
    rows = regrets(policy)
    found: Row = {**summary(rows), "stability": stability(), "follows": followed()}
    text = table(rows, found)
    write_atomically(RESULTS / "selection.json", (json.dumps({**found, "loras": rows}, indent=1)
                                                  + "\n").encode())  # fmt: skip
    (RESULTS / "selection.md").write_text(text)
    plot(rows).savefig(RESULTS / "selection.png")
    print(text)


if __name__ == "__main__":
    main()
