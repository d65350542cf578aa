"""Which epoch each rule selects, and how much of the best epoch's quality it loses.

`python -m bench.selection` (2 to 4 hours on 2 cores; if interrupted, it continues where it
stopped) trains the LoRAs of `bench.loras`, has the judge read 512 images of each checkpoint, scores
each checkpoint with the default probes and with the small set, and writes results/selection.json,
.md and .png.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torchmetrics.functional import pearson_corrcoef, spearman_corrcoef

from bench.judging import HEADINGS, regret
from bench.loras import (
    COUNT,
    EPOCHS,
    FOLDER,
    IMAGES,
    ROUNDS,
    SAVE_EVERY,
    SETS,
    Lora,
    load_truth,
    make_lora,
    make_loras,
)
from bench.parallel import work
from evaluate.config import PolicyConfig
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
LORAS = [make_lora(number) for number in range(COUNT)]
PROBE_SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "small": {"count": 16},
}
DEFAULT, DEFAULT_SMALL = "default", "default, small probe set"
MIN_QUALITY = 0.05  # of the best epoch; LoRAs below it have diverged
GUIDE_EPOCHS = (16, 20)  # "the 15th to 20th epoch": the saved ones, whose mean counts
# score -> the judge's metric of the same property
TRUTHS = {"subject_fidelity": "identity", "prompt_fidelity": "obeyed",
          "pose_memorization": "training pose", "background_leak": "training background",
          "fidelity": "quality"}  # fmt: skip
Row = dict[str, Any]


def score_loras() -> None:
    """Scores all checkpoints with each of PROBE_SETTINGS, unless they are already scored."""
    jobs = [
        (lora.number, setting)
        for setting in PROBE_SETTINGS
        for lora in LORAS
        if not score_file(lora, setting).is_file()
    ]
    work("scored LoRAs", score_lora, jobs)


def score_lora(job: tuple[int, str]) -> None:
    """Scores all checkpoints of a LoRA.

    Args:
        job: number of the LoRA, and one of PROBE_SETTINGS.
    """
    number, setting = job
    lora = LORAS[number]
    scorer = make_scorer(SETS.index(lora.data_set), setting)
    rows = [score(scorer, checkpoint) for checkpoint in lora.checkpoints]
    write_atomically(score_file(lora, setting), json.dumps(rows).encode())


@cache
def make_scorer(number: int, setting: str) -> Scorer:
    """Returns the product's scorer for the training images of a data set."""
    default = settings("sweep", SweepConfig)
    probes = replace(default.probes, **PROBE_SETTINGS[setting])
    data = make_lora(number).config.data
    cached, base = FOLDER.parent / "cache", load_base(BaseConfig(device="cpu"))
    return Scorer(base, load_dataset(data), data, probes, default.scores, cached)


def score_file(lora: Lora, setting: str) -> Path:
    """Returns the path of a LoRA's scorecards."""
    return lora.folder / "scores" / f"{setting.replace(' ', '-')}.json"


def score(scorer: Scorer, checkpoint: Path) -> Row:
    """Returns the scorecard of a checkpoint, and plain CLIP similarities to images and prompts."""
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


def load_scores(lora: Lora, setting: str) -> tuple[list[Scorecard], list[Row]]:
    """Returns the scorecards of a LoRA in order of epochs, and the rows of their file."""
    rows = json.loads(score_file(lora, setting).read_text())
    return [Scorecard.from_dict(row["card"]) for row in rows], rows


def selected_epochs(lora: Lora, policy: PolicyConfig) -> dict[str, list[int]]:
    """Returns by rule the epochs that it may select: one, or several for the guide's rule."""
    cards, rows = load_scores(lora, "default")
    small_cards, _ = load_scores(lora, "small")
    epochs = [card.epoch for card in cards]

    def highest(values: list[float]) -> list[int]:
        return [epochs[max(range(len(values)), key=lambda i: values[i])]]

    return {
        "last epoch": [max(epochs)],
        "the guide's epoch 15 to 20": list(GUIDE_EPOCHS),
        "lowest validation loss": highest([-c.scores["validation_loss"].value for c in cards]),
        "highest CLIP image similarity": highest([row["clip_image"] for row in rows]),
        "highest CLIP text similarity": highest([row["clip_text"] for row in rows]),
        DEFAULT: [select(cards, policy).scorecard.epoch],
        DEFAULT_SMALL: [select(small_cards, policy).scorecard.epoch],
    }


def load_quality(lora: Lora, rounds: range) -> dict[int, float]:
    """Returns the judged quality of each epoch, by these rounds of the judge."""
    return {epoch: metrics["quality"] for epoch, metrics in load_truth(lora.number, rounds).items()}


def regrets(policy: PolicyConfig) -> list[Row]:
    """Returns for each LoRA the share of the best epoch's quality that each rule loses.

    LoRAs that have no epoch of at least MIN_QUALITY are left out.
    """
    rows = []
    for lora in LORAS:
        quality = load_quality(lora, range(ROUNDS))
        if max(quality.values(), default=0.0) < MIN_QUALITY:
            log.info("LoRA %d (%s) diverged: no usable epoch", lora.number, lora.describe())
            continue
        best = max(quality, key=lambda epoch: quality[epoch])
        selections = selected_epochs(lora, policy)
        halves = [load_quality(lora, range(half, ROUNDS, 2)) for half in (0, 1)]
        loss = {rule: regret(halves, epochs, quality) for rule, epochs in selections.items()}
        rows.append({"lora": lora.number, "pictures": lora.data_set.name,
                     "settings": lora.describe(), "quality": quality, "best": best,
                     "picks": selections, "regret": loss})  # fmt: skip
    return rows


def correlation(a: list[float], b: list[float], by_rank: bool = False) -> float:
    """Returns Pearson's correlation, or Spearman's rank correlation."""
    coefficient = spearman_corrcoef if by_rank else pearson_corrcoef
    return float(coefficient(torch.tensor(a), torch.tensor(b)))


def judge_correlations() -> dict[str, dict[str, float]]:
    """Correlates each score with the judge's metric of other images of the same checkpoint."""
    correlations = {}
    for name, metric in TRUTHS.items():
        values, truths = [], []
        for lora in LORAS:
            truth = load_truth(lora.number)
            for card in load_scores(lora, "default")[0]:
                if name != "fidelity" and name not in card.scores:
                    continue  # not computable with these training images
                values.append(
                    comparison_value(card) if name == "fidelity" else card.scores[name].value
                )
                truths.append(truth[card.epoch][metric])
        correlations[name] = {"pearson": correlation(values, truths),
                       "spearman": correlation(values, truths, by_rank=True)}  # fmt: skip
    return correlations


def summarize(rows: list[Row]) -> dict[str, dict[str, float]]:
    """Returns the mean and worst regret of each rule."""
    by_rule = {rule: [row["regret"][rule] for row in rows] for rule in rows[0]["regret"]}
    return {"mean_regret": {rule: sum(v) / len(v) for rule, v in by_rule.items()},
            "worst_regret": {rule: max(v) for rule, v in by_rule.items()}}  # fmt: skip


def table(report: Row, image_count: float) -> str:
    """Formats the results as Markdown.

    Args:
        image_count: the judged images of each checkpoint.
    """
    rows = report["loras"]
    lines = ["# Which epoch to select", "",
             f"{len(rows)} LoRAs with {EPOCHS // SAVE_EVERY} checkpoints each "
             f"({len(LORAS) - len(rows)} more diverged, without any usable checkpoint). Quality: "
             "geometric mean of the identity and the share of images with all attributes correct, "
             f"read by the judge from {image_count:.0f} images per checkpoint with random prompts. "
             "Regret: share of the best checkpoint's quality that a rule loses. One half of the "
             "images decides which checkpoint is the best, and the other half measures, so a "
             "regret can be negative by chance. *default* is the policy that a "
             "sweep uses by default.", ""]  # fmt: skip
    lines += ["| rule | mean regret | worst regret |", "|---|---|---|"]
    for rule, average in sorted(report["mean_regret"].items(), key=lambda item: item[1]):
        lines.append(f"| {rule} | {average:.3f} | {report['worst_regret'][rule]:.3f} |")
    lines += ["", "| score | judge's metric | Pearson | Spearman |", "|---|---|---|---|"]
    for name, row in report["follows"].items():
        cells = f"{row['pearson']:.2f} | {row['spearman']:.2f}"
        metric = HEADINGS.get(TRUTHS[name], TRUTHS[name])
        lines.append(f"| {name} | {metric} | {cells} |")
    headings = "LoRA | images | settings | best epoch: quality | default | last | regret of default"
    lines += ["", f"| {headings} |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        quality, selected = row["quality"], row["picks"][DEFAULT][0]
        best, last = row["best"], max(quality)
        lines.append(f"| {row['lora']} | {row['pictures']} | {row['settings']} | {best}: "
                     f"{quality[best]:.2f} | {selected}: {quality[selected]:.2f} | "
                     f"{quality[last]:.2f} | {row['regret'][DEFAULT]:.3f} |")  # fmt: skip
    return "\n".join([*lines, ""])


def plot(rows: list[Row]) -> Figure:
    """Draws the regret of each rule on each LoRA, and quality over epochs with selected epochs."""
    figure = Figure(figsize=(14, 5.5), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.2))
    rules = sorted(rows[0]["regret"], key=lambda r: -sum(row["regret"][r] for row in rows))
    for y, rule in enumerate(rules):
        values = [row["regret"][rule] for row in rows]
        color = "#d9480f" if rule.startswith(DEFAULT) else "#868e96"
        left.scatter(values, [y] * len(values), color=color, alpha=0.45, s=24)
        left.scatter([sum(values) / len(values)], [y], color=color, marker="|", s=500)
    left.set_yticks(range(len(rules)), rules)
    left.set_xlabel("regret (dot: a LoRA, bar: the mean)")
    left.set_title("loss of quality by selection rule", loc="left")
    left.grid(alpha=0.2)
    for row in rows:
        epochs, selected = [*row["quality"]], row["picks"][DEFAULT][0]
        right.plot(epochs, [*row["quality"].values()], color="#868e96", alpha=0.5, linewidth=1)
        right.scatter([selected], [row["quality"][selected]], color="#d9480f", s=36, zorder=3)
        right.scatter([row["best"]], [row["quality"][row["best"]]], marker="^", s=30, zorder=2,
                      color="#1864ab")  # fmt: skip
    right.scatter([], [], color="#d9480f", label="selected by the default rule")
    right.scatter([], [], color="#1864ab", marker="^", label="best epoch")
    right.set_xlabel("epoch")
    right.set_ylabel("judged quality")
    right.set_title("quality of each LoRA by epoch", loc="left")
    right.legend()
    right.grid(alpha=0.2)
    return figure


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.selection", description=__doc__)
    parser.add_argument(
        "--rounds",
        default=ROUNDS,
        type=int,
        help=f"even number of rounds of {IMAGES} images per checkpoint, at most {ROUNDS}",
    )
    configure_logging()
    rounds = parser.parse_args().rounds
    if rounds not in range(2, ROUNDS + 1, 2):
        parser.error(f"--rounds: {rounds} is not an even number from 2 to {ROUNDS}")
    make_loras(rounds)
    score_loras()
    policy = settings("sweep", SweepConfig).selection
    rows = regrets(policy)
    report: Row = {
        **summarize(rows),
        "follows": judge_correlations(),
        "loras": rows,
    }
    image_counts = [row["pictures"] for lora in LORAS for row in load_truth(lora.number).values()]
    text = table(report, min(image_counts))
    write_atomically(RESULTS / "selection.json", (json.dumps(report, indent=1) + "\n").encode())
    (RESULTS / "selection.md").write_text(text)
    plot(rows).savefig(RESULTS / "selection.png")
    print(text)


if __name__ == "__main__":
    main()
