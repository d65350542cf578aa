"""`python -m bench.arms.ours FOLDER SIDE STEPS STARTED [overrides]`: this trainer.

Runs `python -m train` with its steps timed.
"""

from __future__ import annotations

import runpy
import sys
import tempfile
from typing import Any

import torch

from bench.arms.clock import Clock
from train.loop.trainer import Trainer

RANK = 8


def patch_trainer(clock: Clock) -> None:
    """Makes the clock measure the trainer's steps."""
    original_step = Trainer.step

    def step(trainer: Trainer, *arguments: Any) -> None:
        clock.begin()
        original_step(trainer, *arguments)
        clock.end()

    Trainer.step = step  # type: ignore[method-assign,assignment]


def main() -> None:
    """Trains one epoch of STEPS steps."""
    folder, side, steps, started, *overrides = sys.argv[1:]
    torch.set_num_threads(1)
    clock = Clock(float(started))
    patch_trainer(clock)
    with tempfile.TemporaryDirectory() as output:
        sys.argv = [
            "train", f"base.path={folder}", "base.precision=fp32", "base.device=cpu",
            f"data.path={folder}/pictures", f"data.resolution={side}", f"data.repeats={steps}",
            "data.validation_fraction=0", f"network.rank={RANK}", "network.conv_rank=0",
            "training.epochs=1", "training.batch_size=1", "training.save_every=1",
            f"output={output}", *overrides,
        ]  # fmt: skip
        runpy.run_module("train", run_name="__main__")
    clock.report()


if __name__ == "__main__":
    main()
