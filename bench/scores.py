"""What each score says of pictures whose truth is known.

`python -m bench.scores` (10 minutes on 2 cores) draws sets of pictures of which a known share
repeats the training set, and writes results/scores.json, .md and .png: how far each score is off
that share, whether its interval covers it, and how well single copies are told from fresh pictures
by each score and by other ways; and the error of the keypoint network.
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
from bench.fakes import DESIGNS, EVERY_KIND, Design, drawn, make_world
from bench.loras import FOLDER, SETS, DataSet, draw_pictures
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
from train.puppets.demo import CHARACTERS, TRIGGER, shots
from train.puppets.networks.judge import Judge
from train.puppets.world.captions import caption
from train.puppets.world.examples import draw_many, keypoints

log = logging.getLogger(__name__)
RESULTS = Path(__file__).parent / "results"
SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
IMAGES, SETS_A_SHARE, WORLDS, POOL, NULL = 32, 100, 4, 400, 128
CPU = torch.device("cpu")
COPIES = {
    "pose_memorization": "a training pose, on others at other places",
    "copying": "a whole training picture (same kind: from new ones in a training pose and place)",
}
Outcome = dict[str, float]  # share (wanted), copied (of this set), value, low, high
Scored = Callable[[Tensor], tuple[float, float, float]]  # rows of a pool -> estimate, low, high


def outcomes(scored: Scored, random: Random, repeats: int) -> list[Outcome]:
    """Sets of IMAGES rows of a pool whose first half is fresh and whose second half is copied.

    Each picture is copied with the wanted probability, so that an interval can be held against
    that, and the estimate against the share that a set happens to have.
    """
    found = []
    for share in SHARES:
        for _ in range(repeats):
            copied = torch.tensor([random.random() < share for _ in range(IMAGES)])
            rows = torch.tensor(random.sample(range(POOL), IMAGES)) + POOL * copied
            value, low, high = scored(rows)
            found.append({"share": share, "copied": float(copied.float().mean()),
                          "value": value, "low": low, "high": high})  # fmt: skip
    return found


def auroc(copied: Tensor, fresh: Tensor) -> float:
    """How well a number that is higher for copies tells them from fresh pictures."""
    truth = torch.cat([torch.ones(len(copied)), torch.zeros(len(fresh))]).long()
    return float(binary_auroc(torch.cat([copied, fresh]), truth))


def authenticity(distance: Tensor, among: Tensor) -> Tensor:
    """Alaa et al. 2022, as a number: how much nearer a picture is to a training picture than that
    one's own nearest neighbor is; above 0 is a copy.

    Args:
        distance: (N, n) to the training pictures.
        among: (n, n) distances of the training pictures.
    """
    own = among.clone().fill_diagonal_(torch.inf).min(1).values
    nearest = distance.min(1)
    return own[nearest.indices] - nearest.values


def poses(design: Design, source: KeypointPoses, encoder: ClipEncoder) -> tuple[list[Outcome], Any]:
    """pose_memorization on one design: its estimates, and the AUROC of each way to tell copies."""
    found: list[Outcome] = []
    told: dict[str, list[float]] = {}
    for seed in range(WORLDS):
        world, random = make_world(design, seed), Random(1000 + seed)
        training, fresh = drawn(world.training), drawn(world.fresh(POOL, random))
        copies, null = drawn(world.copies(POOL, random)), drawn(world.fresh(POOL, random))
        bank, base = source.read(training), source.read(null)
        pool = source.read(torch.cat([fresh, copies]))

        def scored(
            rows: Tensor, bank: Tensor = bank, base: Tensor = base, pool: Tensor = pool,
            random: Random = random,
        ) -> tuple[float, float, float]:  # fmt: skip
            some = base[random.sample(range(POOL), NULL)]
            return _bounds(PoseMemorization(source, bank, some), pool[rows])

        found += outcomes(scored, random, SETS_A_SHARE // WORLDS)
        near = source.similarity(pool, bank)
        images = torch.cat([fresh, copies])
        clip, own = encoder.image_features(images), encoder.image_features(training)
        pixels, flat = images.flatten(1), training.flatten(1)
        ways = {
            "ours (pose)": near.max(1).values,
            "authenticity, poses": authenticity(1 - near, 1 - source.similarity(bank, bank)),
            "authenticity, CLIP": authenticity(torch.cdist(clip, own), torch.cdist(own, own)),
            "CLIP nearest neighbor": -torch.cdist(clip, own).min(1).values,
            "pixel distance": -torch.cdist(pixels, flat).min(1).values,
        }
        for way, number in ways.items():
            told.setdefault(way, []).append(auroc(number[POOL:], number[:POOL]))
    return found, {way: sum(values) / len(values) for way, values in told.items()}


def copying(chosen: DataSet, encoder: ClipEncoder) -> tuple[list[Outcome], dict[str, Any]]:
    """copying on one set of training pictures: estimates, and AUROC of each way to tell copies.

    They are told from fresh pictures, and from those that are new but of the same kind as a
    training picture: the same pose by name, place and clothes.
    """
    looks, random = CHARACTERS[chosen.character], Random(chosen.name)
    puppets = shots(looks, chosen.poses, chosen.backgrounds, chosen.count, 1000 * chosen.character)
    training = drawn(puppets)
    fresh = [fakes.sample_puppet(random, fakes.with_outfit(looks, random)) for _ in range(POOL)]
    copies = fakes.picture_copies(puppets, POOL, random)
    images = torch.cat([drawn(fresh), drawn(copies), drawn(fakes.same_kind(puppets, POOL, random))])
    base = drawn([fakes.sample_puppet(random) for _ in range(NULL)])
    patches, bank = encoder.patch_features(images), encoder.patch_features(training)
    metric = Copying(bank, encoder.patch_features(base))
    found = outcomes(lambda rows: _bounds(metric, patches[rows]), random, SETS_A_SHARE)
    clip, own = encoder.image_features(images), encoder.image_features(training)
    distance = torch.cdist(images.flatten(1), training.flatten(1))
    ways = {
        "ours (patches)": -metric.distance(patches),
        "authenticity, CLIP": authenticity(torch.cdist(clip, own), torch.cdist(own, own)),
        "CLIP nearest neighbor": -torch.cdist(clip, own).min(1).values,
        "pixel distance": -distance.min(1).values,
    }
    told: dict[str, Any] = {chosen.name: {}, f"{chosen.name}, same kind": {}}
    for way, number in ways.items():
        for key, others in zip(told, (number[:POOL], number[2 * POOL :]), strict=True):
            told[key][way] = auroc(number[POOL : 2 * POOL], others)
    return found, told


def leaks(chosen: DataSet, name: str) -> list[Outcome]:
    """background_leak or outfit_leak of an ideal LoRA of which a share shows the training one."""
    folder = FOLDER.parent / "sets" / chosen.name.replace(" ", "-")
    draw_pictures(chosen, folder)
    data = DataConfig(path=str(folder), trigger=TRIGGER, resolution=32)
    # so many fresh ones are left of them
    probes = replace(settings("sweep", SweepConfig).probes, count=42)
    scorer = Scorer(load_base(BaseConfig(device="cpu")), load_dataset(data), data, probes,
                    ScoresConfig(), FOLDER.parent / "cache")  # fmt: skip
    asked = [scorer.probe_set.probes[row].asked for row in scorer.probe_set.rows(FRESH)]
    assert len(asked) == IMAGES
    looks, random = CHARACTERS[chosen.character], Random(chosen.name)
    metric, baseline = scorer.metrics.metrics[name], scorer.metrics.baseline
    kind = {"background_leak": "backgrounds", "outfit_leak": "outfits"}[name]
    found = []
    for share in SHARES:
        for _ in range(SETS_A_SHARE):
            puppets = fakes.as_asked(asked, looks, random)
            copied = [random.random() < share for _ in puppets]
            for i in (i for i, copy in enumerate(copied) if copy):
                place = random.choice(chosen.backgrounds)
                puppets[i] = (replace(puppets[i], background=place) if kind == "backgrounds"
                              else replace(puppets[i], looks=looks))  # fmt: skip
            read = scorer.extractor.extract(drawn(puppets))
            metric.reset()
            metric.update(baseline.classify(kind, read), baseline.requested(kind))
            value, low, high = metric.compute().tolist()
            found.append({"share": share, "copied": sum(copied) / IMAGES, "value": value,
                          "low": low, "high": high})  # fmt: skip
    return found


def _bounds(metric: Share, features: Tensor) -> tuple[float, float, float]:
    metric.reset()
    metric.update(features)
    value, low, high = metric.compute().tolist()
    return value, low, high


def keypoint_errors() -> dict[str, float]:
    """Mean distance of a joint, as a share of the picture's side."""
    source, judge = PuppetPoses(CPU), Judge.from_folder()
    renders = draw_many(500, seed=4711)
    images = renders.images.float() / 255
    true = torch.stack([torch.from_numpy(keypoints(puppet)) for puppet in renders.puppets])
    base = load_base(BaseConfig(device="cpu"))
    captions = [caption(puppet) for puppet in renders.puppets[:128]]
    made = generate(base, [], captions, list(range(128)), 32, 8, 3.0)[0]

    def error(a: Tensor, b: Tensor) -> float:
        return float((a[..., :2] - b[..., :2]).norm(dim=-1).mean())

    with torch.no_grad():
        judged, seen = judge(images)["points"], judge(made)["points"]
    networks = {"keypoint network": source.joints, "judge": judge}
    count = {k: sum(p.numel() for p in n.parameters()) / 1e6 for k, n in networks.items()}
    return {
        "on renders, against the truth": error(source.read(images), true),
        "the judge on renders, against the truth": error(judged, true),
        "on generated pictures, against the judge": error(source.read(made), seen),
        **{f"parameters of the {name}, millions": value for name, value in count.items()},
    }


def summarize(found: list[Outcome]) -> dict[str, float]:
    """How far off, how biased where nothing is copied, and how often the interval has the truth."""
    off = [abs(o["value"] - o["copied"]) for o in found]
    none = [o["value"] for o in found if o["share"] == 0]
    covered = [o["low"] - 1e-6 <= o["share"] <= o["high"] + 1e-6 for o in found]
    return {"mean_absolute_error": sum(off) / len(off), "at_zero": sum(none) / len(none),
            "coverage": sum(covered) / len(covered)}  # fmt: skip


def measure() -> tuple[dict[str, Any], dict[str, dict[str, list[Outcome]]]]:
    """All figures; and for each score and each set the single outcomes."""
    encoder, source = ClipEncoder("puppets", CPU), PuppetPoses(CPU)
    single: dict[str, dict[str, list[Outcome]]] = {name: {} for name in
                                                   ("pose_memorization", "copying",
                                                    "background_leak", "outfit_leak")}  # fmt: skip
    told: dict[str, dict[str, dict[str, float]]] = {"pose_memorization": {}, "copying": {}}
    for design in (*DESIGNS, EVERY_KIND):
        pair = poses(design, source, encoder)
        single["pose_memorization"][design.name], told["pose_memorization"][design.name] = pair
        log.info("pose_memorization, %s: %s", design.name, summarize(pair[0]))
    for chosen in SETS:
        single["copying"][chosen.name], by_kind = copying(chosen, encoder)
        told["copying"] |= by_kind
        log.info("copying, %s: %s", chosen.name, summarize(single["copying"][chosen.name]))
    for name in ("background_leak", "outfit_leak"):
        for chosen in SETS[:2]:
            single[name][chosen.name] = leaks(chosen, name)
            log.info("%s, %s: %s", name, chosen.name, summarize(single[name][chosen.name]))
    figures: dict[str, Any] = {}
    for name, by_set in single.items():
        counted = [o for key, some in by_set.items() if key != EVERY_KIND.name for o in some]
        figures[name] = summarize(counted)
        figures[name]["by_set"] = {key: summarize(some) for key, some in by_set.items()}
    for name, ways_by_set in told.items():
        ways = [some for key, some in ways_by_set.items() if key != EVERY_KIND.name]
        means = {way: sum(some[way] for some in ways) / len(ways) for way in ways[0]}
        figures[name] |= {"auroc": next(iter(means.values())), "auroc_of": means,
                          "auroc_by_set": ways_by_set}  # fmt: skip
    figures["keypoints"] = keypoint_errors()
    return figures, single


def table(figures: dict[str, Any]) -> str:
    """The figures, for people."""
    shares = ", ".join(f"{share:.0%}" for share in SHARES)
    lines = ["# What the scores say where the truth is known", "",
             f"Sets of {IMAGES} renders; each picture repeats the training set with a probability "
             f"of {shares}, {SETS_A_SHARE} sets each. Off: mean absolute difference from the share "
             "that a set has; at 0: mean estimate where nothing is repeated; covered: how often "
             "the interval (90 %) has the probability.", ""]  # fmt: skip
    lines += ["| score | training set | off | at 0 | covered |", "|---|---|---|---|---|"]
    for name in ("pose_memorization", "copying", "background_leak", "outfit_leak"):
        rows = {"all": figures[name], **figures[name]["by_set"]}
        for key, row in rows.items():
            aside = " (not in all)" if key == EVERY_KIND.name else ""
            lines.append(f"| {name} | {key}{aside} | {row['mean_absolute_error']:.3f} | "
                         f"{row['at_zero']:.3f} | {row['coverage']:.1%} |")  # fmt: skip
    for name, what in COPIES.items():
        sets = figures[name]["auroc_by_set"]
        lines += ["", f"AUROC of single copies of {what}, against fresh pictures:", ""]
        lines += [f"| way | all | {' | '.join(sets)} |", "|" + "---|" * (len(sets) + 2)]
        for way, value in figures[name]["auroc_of"].items():
            cells = " | ".join(f"{some[way]:.3f}" for some in sets.values())
            lines.append(f"| {way} | {value:.3f} | {cells} |")
    lines += ["", "LPIPS is not among them: its network's weights cannot be had offline.", "",
              "Keypoints, mean error of a joint as a share of the side:", "", "| what | value |",
              "|---|---|"]  # fmt: skip
    lines += [f"| {what} | {value:.4f} |" for what, value in figures["keypoints"].items()]
    return "\n".join([*lines, ""])


def plot(single: dict[str, dict[str, list[Outcome]]]) -> Figure:
    """A panel a score: the estimates over the shares that the sets have."""
    figure = Figure(figsize=(15, 4.2), dpi=100, layout="constrained")
    for axes, (name, by_set) in zip(figure.subplots(1, len(single)), single.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="black", linewidth=0.8)
        for key, found in by_set.items():
            marker = "x" if key == EVERY_KIND.name else "o"
            axes.scatter([o["copied"] for o in found], [o["value"] for o in found], s=8, alpha=0.5,
                         marker=marker, label=key)  # fmt: skip
        axes.set_title(name.replace("_", " "), loc="left")
        axes.set_xlabel("share that repeats the training set")
        axes.set_ylabel("the score")
        axes.legend(fontsize=7, loc="lower right")
        axes.grid(alpha=0.2)
    return figure


def main() -> None:
    """Writes results/scores.json, .md and the picture."""
    configure_logging()
    figures, single = measure()
    write_atomically(RESULTS / "scores.json", (json.dumps(figures, indent=1) + "\n").encode())
    (RESULTS / "scores.md").write_text(table(figures))
    plot(single).savefig(RESULTS / "scores.png")
    print(table(figures))


if __name__ == "__main__":
    main()
