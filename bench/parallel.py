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
Result = TypeVar("Result")


@dataclass(frozen=True)
class Networks:
    """The embedded base, the judge, and the scores' encoder."""

    base: BaseModel
    judge: Judge
    encoder: ClipEncoder


@cache
def networks() -> Networks:
    """The networks of this process; bf16 and compiling only pay on processors with AVX-512."""
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        base = load_base(BaseConfig(device="cpu", precision="bf16"))
        base.unet = torch.compile(base.unet)
    else:
        base = load_base(BaseConfig(device="cpu"))
    return Networks(base, Judge.from_folder(), ClipEncoder("puppets", torch.device("cpu")))


def work(what: str, do: Callable[[Job], Result], jobs: Sequence[Job]) -> list[Result]:
    """Does jobs in as many processes as there are cores; returns the results in their order.

    Args:
        what: begins the lines that say how far it is.
        do: a function of a module.
    """
    if not jobs:
        return []
    results: list[Result] = []
    began, context = time.monotonic(), get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), context, initializer=_one_thread) as processes:
        for result in processes.map(do, jobs):
            results.append(result)
            done = len(results)
            left = (time.monotonic() - began) / done * (len(jobs) - done) / 60
            log.info("%s: %d of %d, about %.0f min left", what, done, len(jobs), left)
    return results


def _one_thread() -> None:
    torch.set_num_threads(1)
