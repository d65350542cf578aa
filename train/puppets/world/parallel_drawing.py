"""Draws many images in several processes."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

import numpy as np
import torch

CHUNK = 2000  # images that one process draws at a time
Subject = TypeVar("Subject")
Draw = Callable[[int, int, float], tuple[list[Subject], np.ndarray]]


def draw_in_parallel(
    draw: Draw[Subject], count: int, seed: int, wild_share: float, workers: int
) -> tuple[list[Subject], torch.Tensor]:
    """Subjects and their images; the same for the same count and seed, whatever the workers.

    Args:
        draw: maps a seed, a count, and the share of wild looks to that many of them.
    """
    counts = [min(CHUNK, count - start) for start in range(0, count, CHUNK)]
    # a forked child of a process with threads can hang
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        parts = list(pool.map(
            draw, (seed * 1_000_003 + i for i in range(len(counts))), counts,
            [wild_share] * len(counts),
        ))  # fmt: skip
    subjects = [subject for chunk, _ in parts for subject in chunk]
    return subjects, torch.from_numpy(np.concatenate([images for _, images in parts]))
