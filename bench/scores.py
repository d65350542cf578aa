"""Accuracy of the scores on images with known ground truth.

`python -m bench.scores` (10 minutes on 2 cores) draws sets of images of which a known share repeats
the training set, and writes results/scores.json, .md and .png: the error of each score against that
share, the coverage of its interval, how well each score and other methods tell single copies from
fresh images, and the error of the keypoint network.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from bench import fakes
from bench.fakes import ALL_KINDS, DESIGNS, Design, make_pose_set, render
from bench.loras import FOLDER, SETS, DataSet, draw_images
from evaluate.config import ScoresConfig
from evaluate.features.clip import ClipEncoder
from evaluate.features.pose import KeypointPoses
from evaluate.features.pose_detectors import PuppetPoses
from evaluate.generation.generate import generate
from evaluate.metrics.base import Share
from evaluate.metrics.memorization import Copying, PoseMemorization
from evaluate.prompts.roles import FRESH
from evaluate.scorer import Scorer
from sweeper.config import SweepConfig
from train.cli.app import configure_logging
from train.cli.compose import settings
from train.config.schema import BaseConfig, DataConfig
from train.data.dataset import load_dataset
from train.files.atomic_write import write_atomically
from train.models.base_model import load_base
from train.puppets.demo import CHARACTERS, TRIGGER
from train.puppets.networks.judge import Judge
from train.puppets.networks.targets import points_of
from train.puppets.world.examples import SIZE, Puppet, caption, draw_many

log = logging.getLogger(__name__)
RESULTS = Path(__file__).parent / "results"
SCORES = ("pose_memorization", "copying", "background_leak", "outfit_leak")
SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
IMAGES, SETS_PER_SHARE, POSE_SETS, POOL, BASELINE = 32, 100, 4, 400, 128
CPU = torch.device("cpu")
COPY_DESCRIPTIONS = {
    "pose_memorization": "a training pose, with another subject and background",
    "copying": "a whole training image (same kind: against new images with a training pose and "
    "background)",
}
# share: probability of a copy; copied: actual share of copies in the set; value, low, high
Estimate = dict[str, float]
ScoreFunction = Callable[[Tensor], tuple[float, float, float]]  # pool rows -> value, low, high


def score_random_sets(score: ScoreFunction, random: Random, repeats: int) -> list[Estimate]:
    """Scores random sets of IMAGES rows of a pool: first half fresh images, second half copies.

    Each image is a copy with probability `share`, to which the interval is compared; the estimate
    is compared to the share of copies that the set actually has.
    """
    estimates = []
    for share in SHARES:
        for _ in range(repeats):
            copied = torch.tensor([random.random() < share for _ in range(IMAGES)])
            rows = torch.tensor(random.sample(range(POOL), IMAGES)) + POOL * copied
            value, low, high = score(rows)
            estimates.append({"share": share, "copied": float(copied.float().mean()),
                          "value": value, "low": low, "high": high})  # fmt: skip
    return estimates


def auroc(copied: Tensor, fresh: Tensor) -> float:
    """Returns how well a number that is higher for copies separates them from fresh images."""
    truth = torch.cat([torch.ones(len(copied)), torch.zeros(len(fresh))]).long()
    return float(binary_auroc(torch.cat([copied, fresh]), truth))


def authenticity(distance: Tensor, among: Tensor) -> Tensor:
    """Returns how much nearer an image is to its nearest training image than that one's neighbor.

    After Alaa et al. 2022, who count a value above 0 as a copy.

    Args:
        distance: (N, n) distances to the training images.
        among: (n, n) distances between the training images.
    """
    neighbor = among.clone().fill_diagonal_(torch.inf).min(1).values
    nearest = distance.min(1)
    return neighbor[nearest.indices] - nearest.values


def evaluate_pose_memorization(
    design: Design, source: KeypointPoses, encoder: ClipEncoder
) -> tuple[list[Estimate], Any]:
    """Returns estimates of pose_memorization on one design, and the AUROC of each method."""
    estimates: list[Estimate] = []
    aurocs: dict[str, list[float]] = {}
    for seed in range(POSE_SETS):
        pose_set, random = make_pose_set(design, seed), Random(1000 + seed)
        training, fresh = render(pose_set.training), render(pose_set.fresh(POOL, random))
        copies = render(pose_set.pose_copies(POOL, random))
        bank = source.read(training)
        base = source.read(render(pose_set.fresh(POOL, random)))
        pool = source.read(torch.cat([fresh, copies]))

        def score(
            rows: Tensor, bank: Tensor = bank, base: Tensor = base, pool: Tensor = pool,
            random: Random = random,
        ) -> tuple[float, float, float]:  # fmt: skip
            baseline = base[random.sample(range(POOL), BASELINE)]
            return _compute(PoseMemorization(source, bank, baseline), pool[rows])

        estimates += score_random_sets(score, random, SETS_PER_SHARE // POSE_SETS)
        similarity = source.similarity(pool, bank)
        images = torch.cat([fresh, copies])
        clip, clip_training = encoder.image_features(images), encoder.image_features(training)
        pixels, pixels_training = images.flatten(1), training.flatten(1)
        numbers = {
            "pose_memorization": similarity.max(1).values,
            "authenticity, poses": authenticity(1 - similarity, 1 - source.similarity(bank, bank)),
            "authenticity, CLIP": authenticity(
                torch.cdist(clip, clip_training), torch.cdist(clip_training, clip_training)
            ),
            "CLIP nearest neighbor": -torch.cdist(clip, clip_training).min(1).values,
            "pixel distance": -torch.cdist(pixels, pixels_training).min(1).values,
        }
        for method, number in numbers.items():
            aurocs.setdefault(method, []).append(auroc(number[POOL:], number[:POOL]))
    return estimates, {method: sum(v) / len(v) for method, v in aurocs.items()}


def evaluate_copying(
    chosen: DataSet, encoder: ClipEncoder
) -> tuple[list[Estimate], dict[str, Any]]:
    """Returns estimates of `copying` on one training set, and the AUROC of each method.

    Copies are separated from fresh images, and from new images of the same kind as a training
    image: everything that has a name is the same.
    """
    looks, random = CHARACTERS[chosen.character], Random(chosen.name)
    subjects = [drawing.subject for drawing in chosen.shots().drawings(seed=0)]
    puppets = [subject for subject in subjects if isinstance(subject, Puppet)]
    training = render(puppets)
    fresh = [fakes.sample_puppet(random, fakes.with_outfit(looks, random)) for _ in range(POOL)]
    copies = fakes.image_copies(puppets, POOL, random)
    same_kind = fakes.same_kind_puppets(puppets, POOL, random)
    images = torch.cat([render(fresh), render(copies), render(same_kind)])
    base = render([fakes.sample_puppet(random) for _ in range(BASELINE)])
    patches, bank = encoder.patch_features(images), encoder.patch_features(training)
    metric = Copying(bank, encoder.patch_features(base))
    estimates = score_random_sets(
        lambda rows: _compute(metric, patches[rows]), random, SETS_PER_SHARE
    )
    clip, clip_training = encoder.image_features(images), encoder.image_features(training)
    distance = torch.cdist(images.flatten(1), training.flatten(1))
    numbers = {
        "copying": -metric.distance(patches),
        "authenticity, CLIP": authenticity(
            torch.cdist(clip, clip_training), torch.cdist(clip_training, clip_training)
        ),
        "CLIP nearest neighbor": -torch.cdist(clip, clip_training).min(1).values,
        "pixel distance": -distance.min(1).values,
    }
    aurocs: dict[str, Any] = {chosen.name: {}, f"{chosen.name}, same kind": {}}
    for method, number in numbers.items():
        for key, negatives in zip(aurocs, (number[:POOL], number[2 * POOL :]), strict=True):
            aurocs[key][method] = auroc(number[POOL : 2 * POOL], negatives)
    return estimates, aurocs


def evaluate_leak(chosen: DataSet, name: str) -> list[Estimate]:
    """Returns estimates of background_leak or outfit_leak for images of an ideal LoRA.

    In a share of the images, the background or outfit is replaced by that of the training set.
    """
    folder = FOLDER.parent / "sets" / chosen.name.replace(" ", "-")
    draw_images(chosen, folder)
    data = DataConfig(path=str(folder), trigger=TRIGGER, resolution=SIZE)
    # of 42 probes, IMAGES have prompts with fresh attributes
    probes = replace(settings("sweep", SweepConfig).probes, count=42)
    scorer = Scorer(load_base(BaseConfig(device="cpu")), load_dataset(data), data, probes,
                    ScoresConfig(), FOLDER.parent / "cache")  # fmt: skip
    requests = [scorer.probe_set.probes[row].asked for row in scorer.probe_set.rows(FRESH)]
    assert len(requests) == IMAGES
    looks, random = CHARACTERS[chosen.character], Random(chosen.name)
    metric, baseline = scorer.metrics.metrics[name], scorer.metrics.baseline
    kind = {"background_leak": "backgrounds", "outfit_leak": "outfits"}[name]
    estimates = []
    for share in SHARES:
        for _ in range(SETS_PER_SHARE):
            puppets = fakes.ideal_puppets(requests, looks, random)
            copied = [random.random() < share for _ in puppets]
            for i in (i for i, copy in enumerate(copied) if copy):
                place = random.choice(chosen.backgrounds)
                puppets[i] = (replace(puppets[i], background=place) if kind == "backgrounds"
                              else replace(puppets[i], looks=looks))  # fmt: skip
            features = scorer.extractor.extract(render(puppets))
            metric.reset()
            metric.update(baseline.classify(kind, features), baseline.requested(kind))
            value, low, high = metric.compute().tolist()
            estimates.append({"share": share, "copied": sum(copied) / IMAGES, "value": value,
                          "low": low, "high": high})  # fmt: skip
    return estimates


def _compute(metric: Share, features: Tensor) -> tuple[float, float, float]:
    metric.reset()
    metric.update(features)
    value, low, high = metric.compute().tolist()
    return value, low, high


def keypoint_errors() -> dict[str, float]:
    """Returns the mean error of a joint, as a share of the image's side."""
    source, judge = PuppetPoses(CPU), Judge.from_folder()
    renders = draw_many(500, seed=4711)
    truth = points_of(renders.drawings).cpu()
    bodies = truth.isfinite().all(2).all(1)
    images, truth = renders.images[bodies].float() / 255, truth[bodies]
    puppets = [drawing for drawing in renders.drawings if isinstance(drawing.subject, Puppet)]
    base = load_base(BaseConfig(device="cpu"))
    captions = [caption(drawing.subject, None, drawing.medium) for drawing in puppets[:128]]
    generated = generate(base, [], captions, list(range(128)), SIZE, 8, 3.0)[0]

    def error(a: Tensor, b: Tensor) -> float:
        return float((a[..., :2] - b[..., :2]).norm(dim=-1).mean())

    with torch.no_grad():
        judged, judged_generated = judge(images)["points"], judge(generated)["points"]
    networks = {"keypoint network": source.joints, "judge": judge}
    sizes = {k: sum(p.numel() for p in n.parameters()) / 1e6 for k, n in networks.items()}
    return {
        "keypoint network on renders, against the truth": error(source.read(images), truth),
        "judge on renders, against the truth": error(judged, truth),
        "keypoint network on generated images, against the judge": error(
            source.read(generated), judged_generated
        ),
        **{f"parameters of the {name}, millions": value for name, value in sizes.items()},
    }


def summarize(estimates: list[Estimate]) -> dict[str, float]:
    """Returns the mean absolute error, the mean where nothing is copied, and the coverage."""
    errors = [abs(o["value"] - o["copied"]) for o in estimates]
    at_zero = [o["value"] for o in estimates if o["share"] == 0]
    covered = [o["low"] - 1e-6 <= o["share"] <= o["high"] + 1e-6 for o in estimates]
    return {
        "mean_absolute_error": sum(errors) / len(errors),
        "at_zero": sum(at_zero) / len(at_zero),
        "coverage": sum(covered) / len(covered),
    }


def measure() -> tuple[dict[str, Any], dict[str, dict[str, list[Estimate]]]]:
    """Returns the report, and all estimates by score and training set."""
    encoder, source = ClipEncoder("puppets", CPU), PuppetPoses(CPU)
    estimates: dict[str, dict[str, list[Estimate]]] = {name: {} for name in SCORES}
    aurocs: dict[str, dict[str, dict[str, float]]] = {"pose_memorization": {}, "copying": {}}
    for design in (*DESIGNS, ALL_KINDS):
        pair = evaluate_pose_memorization(design, source, encoder)
        (
            estimates["pose_memorization"][design.name],
            aurocs["pose_memorization"][design.name],
        ) = pair
        log.info("pose_memorization, %s: %s", design.name, summarize(pair[0]))
    for chosen in SETS:
        estimates["copying"][chosen.name], by_kind = evaluate_copying(chosen, encoder)
        aurocs["copying"] |= by_kind
        log.info("copying, %s: %s", chosen.name, summarize(estimates["copying"][chosen.name]))
    for name in ("background_leak", "outfit_leak"):
        for chosen in SETS[:2]:
            estimates[name][chosen.name] = evaluate_leak(chosen, name)
            log.info("%s, %s: %s", name, chosen.name, summarize(estimates[name][chosen.name]))
    report: dict[str, Any] = {}
    for name, by_set in estimates.items():
        pooled = [o for key, part in by_set.items() if key != ALL_KINDS.name for o in part]
        report[name] = summarize(pooled)
        report[name]["by_set"] = {key: summarize(part) for key, part in by_set.items()}
    for name, aurocs_by_set in aurocs.items():
        rows = [row for key, row in aurocs_by_set.items() if key != ALL_KINDS.name]
        means = {method: sum(row[method] for row in rows) / len(rows) for method in rows[0]}
        report[name] |= {"auroc": next(iter(means.values())), "auroc_of": means,
                          "auroc_by_set": aurocs_by_set}  # fmt: skip
    report["keypoints"] = keypoint_errors()
    return report, estimates


def table(report: dict[str, Any]) -> str:
    """Formats the results as Markdown."""
    shares = ", ".join(f"{share:.0%}" for share in SHARES)
    lines = ["# Accuracy of the scores where the truth is known", "",
             f"Sets of {IMAGES} renders, in which each image repeats the training set with a "
             f"probability of {shares}; {SETS_PER_SHARE} sets each. Error: mean absolute "
             "difference from the actual share of repetitions in a set. At 0: mean score of sets "
             "without repetitions. Coverage: how often the 90% interval contains the probability.",
             ""]  # fmt: skip
    lines += ["| score | training set | error | at 0 | coverage |", "|---|---|---|---|---|"]
    for name in SCORES:
        rows = {"all": report[name], **report[name]["by_set"]}
        for key, row in rows.items():
            note = " (not in all)" if key == ALL_KINDS.name else ""
            lines.append(f"| {name} | {key}{note} | {row['mean_absolute_error']:.3f} | "
                         f"{row['at_zero']:.3f} | {row['coverage']:.1%} |")  # fmt: skip
    for name, description in COPY_DESCRIPTIONS.items():
        sets = report[name]["auroc_by_set"]
        lines += ["", f"AUROC of single copies of {description}, against fresh images:", ""]
        lines += [f"| method | all | {' | '.join(sets)} |", "|" + "---|" * (len(sets) + 2)]
        for method, value in report[name]["auroc_of"].items():
            cells = " | ".join(f"{row[method]:.3f}" for row in sets.values())
            lines.append(f"| {method} | {value:.3f} | {cells} |")
    lines += ["", "LPIPS is missing because its weights are not available offline.", "",
              "Keypoints, mean error of a joint as a share of the image's side:", "", "| | value |",
              "|---|---|"]  # fmt: skip
    lines += [f"| {name} | {value:.4f} |" for name, value in report["keypoints"].items()]
    return "\n".join([*lines, ""])


def plot(estimates: dict[str, dict[str, list[Estimate]]]) -> Figure:
    """Draws one panel per score: the estimates over the actual share of copies in a set."""
    figure = Figure(figsize=(15, 4.2), dpi=100, layout="constrained")
    panels = figure.subplots(1, len(estimates))
    for axes, (name, by_set) in zip(panels, estimates.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="black", linewidth=0.8)
        for key, sets in by_set.items():
            marker = "x" if key == ALL_KINDS.name else "o"
            axes.scatter([o["copied"] for o in sets], [o["value"] for o in sets], s=8, alpha=0.5,
                         marker=marker, label=key)  # fmt: skip
        axes.set_title(name.replace("_", " "), loc="left")
        axes.set_xlabel("share of images that repeat the training set")
        axes.set_ylabel("score")
        axes.legend(fontsize=7, loc="lower right")
        axes.grid(alpha=0.2)
    return figure


def main() -> None:
    """Runs the benchmark and writes results/scores.json, .md and .png."""
    configure_logging()
    report, estimates = measure()
    write_atomically(RESULTS / "scores.json", (json.dumps(report, indent=1) + "\n").encode())
    (RESULTS / "scores.md").write_text(table(report))
    plot(estimates).savefig(RESULTS / "scores.png")
    print(table(report))


if __name__ == "__main__":
    main()
