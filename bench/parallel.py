"""Images in one process for each core, which is faster here than one process on all cores."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from typing import TypeVar

import torch

from evaluate.features.clip import ClipEncoder
from train.config.schema import BaseConfig
from train.models.base_model import BaseModel, load_base
from train.puppets.networks.judge import Judge

log = logging.getLogger(__name__)
Job = TypeVar("Job")


@dataclass(frozen=True)
class Networks:
    """The embedded base, the judge, and the scores' encoder."""

    base: BaseModel
    judge: Judge
    encoder: ClipEncoder


@cache
def networks() -> Networks:
    """The networks of this process."""
    base = load_base(BaseConfig(device="cpu", precision="bf16"))
    base.unet = torch.compile(base.unet)
    return Networks(base, Judge.from_folder(), ClipEncoder("puppets", torch.device("cpu")))


def work(do: Callable[[Job], str], jobs: Sequence[Job]) -> None:
    """Does jobs in as many processes as there are cores, and logs how far it is.

    Args:
        do: a function of a module, which returns the name of what it has done.
    """
    began, context = time.monotonic(), get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), context, initializer=_one_thread) as processes:
        for done, name in enumerate(processes.map(do, jobs), 1):
            left = (time.monotonic() - began) / done * (len(jobs) - done) / 60
            log.info("%d of %d (%s), about %.0f min left", done, len(jobs), name, left)


def _one_thread() -> None:
    torch.set_num_threads(1)
