"""How much of a study's best checkpoint each rule loses, over eight sweeps of different data.

`python -m bench.study [--rounds N]` (some 2 hours on 2 cores with two rounds, 3 with four) runs the
sweeps of `bench.study_data` one after the other, has the judge read N * 128 images of each
checkpoint, repeats the selection with other probes (see `bench.study_finals`), and writes
results/study.json and .md after each sweep. If interrupted, it continues where it stopped; sweeps
whose results are in study.json are not run again, unless the settings have changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

from bench.parallel import work
from bench.study_data import (
    FOLDER,
    IMAGES,
    SWEEPS,
    TRIALS,
    do,
    make_variant,
    pending,
    pool_scorer,
    run_sweep,
    seconds_per_image,
)
from bench.study_finals import is_saved, make_pool
from bench.study_rules import (
    BEFORE,
    BEFORE_PROBES,
    CALIBRATION,
    OURS,
    RULES,
    Repetition,
    arms,
    config_with_final,
    keep,
    regrets_within_trials,
    repeat,
)
from bench.study_truth import Study
from train.cli.app import configure_logging
from train.files.atomic_write import write_atomically
from train.puppets.world.examples import BACKGROUNDS

log = logging.getLogger(__name__)
RESULTS = Path(__file__).parent / "results"
ROUNDS = 4  # of the judge
MADE = 6  # checkpoints of each sweep of which variants are made
SURE = 0.9  # probability from which on a pick counts as said to be the best
Row = dict[str, Any]


def run(number: int, rounds: int) -> Row:
    """Runs a sweep, has it judged, and measures the picks of all rules."""
    name, policy = SWEEPS[number].name, config_with_final().selection
    run_sweep(number)
    work(name, do, pending(number, rounds))
    pool = make_pool(SWEEPS[number], pool_scorer(number))
    saved = {key: card for key, card in pool.all.items() if is_saved(key)}
    for allowed in (arm.policy for arm in arms().values()):
        for key in pool.variants(saved, MADE, allowed):
            make_variant(number, key)
    work(f"{name}, variants", do, pending(number, rounds))
    study = Study(SWEEPS[number], rounds)
    picked, best = keep(study.cards, policy), study.best()
    row: Row = {
        "sweep": name,
        "checkpoints": len(study.cards),
        "best": [*best[:2], (study.worth(best, 0) + study.worth(best, 1)) / 2],
        "rules": {rule: study.regret(pick(study, picked)) for rule, pick in RULES.items()},
        "within_trials": regrets_within_trials(study, policy),
    }
    jobs = [(number, arm, seed) for arm in arms() for seed in range(arms()[arm].repeats)]
    done = work(f"{name}, repetitions", repeat, jobs)
    for arm in arms():
        row[arm] = describe(study, [r for r, job in zip(done, jobs, strict=True) if job[1] == arm])
    return row


def describe(study: Study, repetitions: list[Repetition]) -> Row:
    """Measures the picks of one arm's repetitions."""
    picks = [repetition.pick for repetition in repetitions]
    images = mean(repetition.images for repetition in repetitions)
    return {
        "regrets": [study.regret(pick) for pick in picks],
        "images": images,
        "seconds": images * seconds_per_image(study.sweep),
        "variants": mean(not is_saved(pick) for pick in picks),
        "training_pose": mean(study.average(pick, "training pose") for pick in picks),
        # if the training images show every place, any wrong one is a training place
        "training_place": mean(study.average(pick, "training place") for pick in picks)
        if {*study.sweep.shots.backgrounds} < {*BACKGROUNDS}
        else None,
        "sureness": [(r.probability, r.right) for r in repetitions if r.probability is not None],
    }


def summarize(rows: list[Row]) -> dict[str, Row]:
    """The mean and the worst regret of each rule over the sweeps."""
    totals: dict[str, Row] = {}
    for name in (arm for arm in arms() if arm != CALIBRATION):
        by_sweep = [mean(row[name]["regrets"]) for row in rows]
        totals[name] = {
            "mean_regret": mean(by_sweep),
            "worst_regret": max(by_sweep),
            "pictures": sum(row[name]["images"] for row in rows),
            "seconds": sum(row[name]["seconds"] for row in rows),
            "variants": mean(row[name]["variants"] for row in rows),
            "training_pose": max(row[name]["training_pose"] for row in rows),
            "training_place": max(row[name]["training_place"] or 0.0 for row in rows),
        }
    for name in RULES:
        regrets = [row["rules"][name] for row in rows]
        totals[name] = {"mean_regret": mean(regrets), "worst_regret": max(regrets)}
    finals = [final for row in rows for final in row[CALIBRATION]["sureness"]]
    said = [right for p, right in finals if p >= SURE]
    totals[OURS] |= {"finals": len(finals),
                     "said_to_be_best": len(said),
                     "is_best": mean(said) if said else None}  # fmt: skip
    return totals


def table(rows: list[Row], totals: dict[str, Row], images: int) -> str:
    """Formats the results as Markdown.

    Args:
        images: the judged images of each checkpoint.
    """
    ours = totals[OURS]
    lines = ["# How much of a study's best checkpoint each rule loses", "",
             f"{len(rows)} sweeps of {TRIALS} trials. Worth: geometric mean of the identity and the"
             f" share of images with all attributes correct, read by the judge from {images} images"
             " per checkpoint. One half of them decides which checkpoint is the best; the regret,"
             " the share of its worth that a pick lacks, is measured on the other half, and the"
             " other way round. *ours* is what a sweep keeps with `final=fresh`, and *ours before*"
             f" what a first look at {BEFORE_PROBES} probes alone would keep. *Strengths* is a"
             " final that also tries 0.8, *averages* one that also tries the average of each two"
             f" successive checkpoints (of the {MADE} best checkpoints only). These four are means"
             f" over repetitions with other probes in each sweep, {arms()[OURS].repeats} of the"
             f" first two and {arms()['strengths'].repeats} of the others. The seconds are those"
             " that the probe images take. Training pose, training place: share of the judged"
             " images of the pick that show one, though the prompt asks for another; in the sweep"
             " where it is highest.", "",
             "| rule | mean regret | worst regret | probe images | seconds | keeps a variant |"
             " training pose | training place |", "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, total in sorted(totals.items(), key=lambda item: item[1]["mean_regret"]):
        cells = [f"{total['pictures']:.0f}", f"{total['seconds']:.0f}", f"{total['variants']:.0%}",
                 f"{total['training_pose']:.0%}",
                 f"{total['training_place']:.0%}"] if "pictures" in total else [""] * 5  # fmt: skip
        lines.append(f"| {name.replace('_', ' ')} | {total['mean_regret']:.3f} |"
                     f" {total['worst_regret']:.3f} | {' | '.join(cells)} |")  # fmt: skip
    right = "" if ours["is_best"] is None else f"; {ours['is_best']:.0%} of these are"
    lines += ["", f"Of {ours['finals']} finals on probes drawn with replacement,"
              f" {ours['said_to_be_best']} said with a probability of {SURE:.0%} or more that their"
              f" pick is the best or equal to it on all probes{right}.", "",
              "| sweep | checkpoints | best: trial, epoch, worth | ours | ours before | "
              f"{' | '.join(RULES).replace('_', ' ')} |",
              "|" + "---|" * (len(RULES) + 5)]  # fmt: skip
    for row in rows:
        trial, epoch, worth = row["best"]
        regrets = [mean(row[arm]["regrets"]) for arm in (OURS, BEFORE)]
        cells = [f"{regret:.3f}" for regret in (*regrets, *row["rules"].values())]
        lines.append(f"| {row['sweep']} | {row['checkpoints']} | {trial}, {epoch}, {worth:.2f} | "
                     f"{' | '.join(cells)} |")  # fmt: skip
    within = {
        name: [r for row in rows for r in row["within_trials"][name]]
        for name in rows[0]["within_trials"]
    }
    count = len(next(iter(within.values())))
    lines += ["", f"Regret within single trials ({count} with three checkpoints or more):", "",
              "| rule | mean regret | worst regret |", "|---|---|---|"]  # fmt: skip
    lines += [f"| {name} | {mean(r):.3f} | {max(r):.3f} |" for name, r in within.items()]
    return "\n".join([*lines, ""])


def fingerprint(rounds: int) -> str:
    """Says of which weights and settings results are."""
    config, compared = config_with_final(), {name: asdict(arm) for name, arm in arms().items()}
    parts = (FOLDER.name, rounds, MADE, asdict(config.scores), asdict(config.probes), compared)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.study", description=__doc__)
    parser.add_argument(
        "--rounds", default=ROUNDS, type=int, help=f"rounds of {IMAGES} images, an even number"
    )
    configure_logging()
    rounds = parser.parse_args().rounds
    if rounds < 2 or rounds % 2:
        parser.error(f"--rounds: {rounds} is not an even number")
    file, about = RESULTS / "study.json", fingerprint(rounds)
    former = json.loads(file.read_text()) if file.is_file() else {}
    rows: list[Row] = former["sweeps"] if former.get("about") == about else []
    for number in range(len(rows), len(SWEEPS)):
        rows.append(run(number, rounds))
        totals = summarize(rows)
        content = {"about": about, **totals, "sweeps": rows}
        write_atomically(file, (json.dumps(content, indent=1) + "\n").encode())
        text = table(rows, totals, IMAGES * rounds)
        (RESULTS / "study.md").write_text(text)
        log.info("in %s\n%s", FOLDER, text)


if __name__ == "__main__":
    main()
