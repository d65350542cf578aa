"""The trainer: K adapters on one frozen base, as an iterator over their epochs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from train.cache.latent_cache import encode_dataset
from train.config.schema import TrialConfig
from train.data.dataset import Dataset
from train.errors import TrainingError
from train.loop.adapter_run import AdapterRun
from train.loop.loss import diffusion_loss
from train.loop.random_draws import MicroBatch
from train.loop.trial_spec import Checkpoint, TrialSpec
from train.lora.checkpoint import NonFiniteError
from train.models.base_model import BaseModel
from train.models.gradient_checkpointing import use_gradient_checkpointing
from train.system.distributed import SINGLE_PROCESS, ProcessGroup

__all__ = ["Checkpoint", "Epoch", "Trainer", "TrainingError", "TrialSpec", "shared_by_a_pack"]


@dataclass(frozen=True)
class Epoch:
    """The result of one epoch of the pack.

    Attributes:
        seconds: training time since the last yield.
        failures: index of each trial that failed in this epoch -> the reason.
    """

    checkpoints: list[Checkpoint]
    seconds: float
    failures: dict[int, str] = field(default_factory=dict)


def shared_by_a_pack(config: TrialConfig) -> tuple[object, ...]:
    """The settings that trials must share to be trained together."""
    training, where = config.training, (config.cache, config.cache_path)
    shared = training.batch_size, training.gradient_checkpointing
    return asdict(config.data), asdict(config.base), shared, where


class Trainer:
    """Trains a pack of trials; a single trial is a pack of one.

    The trials share base, dataset, resolution and batch size. Each has its own weights, optimizer,
    schedule and random stream, so it gets the same result as alone (within the rounding of other
    batch sizes), and its own position in its own epochs: trials may join and leave between any
    two. A trial whose folder holds the state of an interrupted run continues it, to the same bytes
    as without the interruption; its last saved epoch is yielded again first. A trial that was
    interrupted within an epoch finishes that epoch separately.

    Args:
        base: from `load_base`.
        dataset: from `load_dataset`.
        specs: the first trials; more may be added.
        processes: those that train the same trials together.
        should_stop: polled after each step; if true, states are saved and KeyboardInterrupt is
            raised.
        should_pause: polled after each epoch; if true, states are saved, and the epoch is yielded
            even without a checkpoint.

    Raises:
        TrainingError: see `add`.
    """

    def __init__(
        self,
        base: BaseModel,
        dataset: Dataset,
        specs: Sequence[TrialSpec] = (),
        processes: ProcessGroup = SINGLE_PROCESS,
        should_stop: Callable[[], bool] | None = None,
        should_pause: Callable[[], object] = lambda: False,
    ) -> None:
        self.base, self.dataset, self.processes = base, dataset, processes
        self.should_stop, self.should_pause = should_stop, should_pause
        self.runs: dict[int, AdapterRun] = {}
        self.pending: list[AdapterRun] = []  # they start with the next epoch
        self._added = 0
        self._shared: tuple[object, ...] | None = None
        for spec in specs:
            self.add(spec)

    def add(self, spec: TrialSpec) -> int:
        """Adds a trial, which joins the pack at the end of the current epoch.

        Returns:
            its index in `Checkpoint`, `Epoch` and `stop`: 0 for the first one.

        Raises:
            TrainingError: it cannot share the pack, or its folder holds a run of other settings.
        """
        run = AdapterRun(self._added, spec, self.base, self.dataset, self.processes)
        shared = shared_by_a_pack(run.config)
        if self._shared is None:
            self.data = encode_dataset(self.base, self.dataset, run.config)
            self._shared = shared
        if shared != self._shared:
            raise TrainingError(
                "a pack's trials must share base, images, batch size and gradient checkpointing"
            )
        self.pending.append(run)
        self._added += 1
        return run.index

    def stop(self, index: int) -> None:
        """Stops a trial; its files stay."""
        self.runs.pop(index, None)

    def __iter__(self) -> Iterator[Epoch]:
        began = time.perf_counter()
        while self.pending or self.runs:
            joined, self.pending = self.pending, []
            self.runs |= {run.index: run for run in joined}
            if continued := [run for run in joined if run.last]:
                self._remove([run for run in continued if run.finished])
                yield Epoch([run.last_saved() for run in continued], 0.0)
                began = time.perf_counter()
                continue  # the caller may have stopped or added some
            failures = self._train_epoch(list(self.runs.values()))
            saved = self._save_due(failures)
            if should_pause := self.should_pause():
                for run in self.runs.values():
                    run.save_state()
            self._remove([run for run in self.runs.values() if run.finished])
            if saved or failures or should_pause:
                yield Epoch(saved, time.perf_counter() - began, failures)
                began = time.perf_counter()

    def _remove(self, runs: list[AdapterRun]) -> None:
        for run in runs:
            self.stop(run.index)

    def _train_epoch(self, running: list[AdapterRun]) -> dict[int, str]:
        """Trains an epoch of each run; stops those that failed and returns the reasons."""
        use_gradient_checkpointing(self.base, running[0].config.training.gradient_checkpointing)
        for run in running:
            run.start_epoch()
        start_batch = {run.index: run.batch for run in running}  # 0, except after an interruption
        for start in sorted(set(start_batch.values())):
            group = [run for run in running if start_batch[run.index] == start]
            while group := [run for run in group if run.in_epoch]:
                self.step(group, group[0].batch)
                self._save_states(group)
        failures = {run.index: reason for run in running if (reason := run.finish_epoch())}
        self._remove([run for run in running if run.index in failures])
        return failures

    def _save_due(self, failures: dict[int, str]) -> list[Checkpoint]:
        """Saves the due checkpoints; runs whose weights are not finite join the failures."""
        saved = []
        for run in [run for run in self.runs.values() if run.checkpoint_due]:
            try:
                saved.append(run.save())
            except NonFiniteError as error:
                rate = run.optimizer.param_groups[0]["lr"]
                failures[run.index] = (
                    f"{error} after epoch {run.epoch}; the likely cause is a learning rate that is "
                    f"too high ({rate:g})"
                )
                self.stop(run.index)
        return saved

    def _save_states(self, running: list[AdapterRun]) -> None:
        """Saves the states that are due; if a stop is requested, saves all of them and leaves."""
        for run in running:
            run.save_state_if_due()
        if self.should_stop is None or not all(run.between_steps for run in running):
            return
        if self.processes.any(self.should_stop()):
            for run in running:
                run.save_state()
            raise KeyboardInterrupt

    def step(self, running: list[AdapterRun], step: int) -> None:
        """One forward and backward pass for all runs, with the rows in the order of the runs."""
        batches = [run.sample(step, self.data).shard(self.processes) for run in running]
        rows = self._to_device(batches)
        with self.base.adapters.activated(
            [run.adapter for run in running], [batch.dropout for batch in batches]
        ):
            loss = self._weighted_loss(running, batches, rows)
            sums = [part.sum() for part in loss.chunk(len(running))]
            if len(loss):  # a process may have no row of a small batch
                torch.stack(
                    [run.scaled_loss(part, step) for run, part in zip(running, sums, strict=True)]
                ).sum().backward()
        total = self.processes.sum(torch.stack(sums).detach())
        for run, part in zip(running, total.unbind(), strict=True):
            run.finish_batch(step, part)

    def _weighted_loss(
        self, running: list[AdapterRun], batches: list[MicroBatch], rows: dict[str, Tensor]
    ) -> Tensor:
        """The loss of each row times its weight."""
        if not len(rows["weights"]):
            return rows["weights"]
        loss = diffusion_loss(
            self.base, rows["latents"], rows["noise"], rows["timesteps"],
            self._conditioning(running, batches, rows),
        )  # fmt: skip
        return loss * rows["weights"]

    def _to_device(self, batches: list[MicroBatch]) -> dict[str, Tensor]:
        """The concatenated micro-batches, copied asynchronously."""
        rows = {}
        for name in ("latents", "noise", "timesteps", "sizes", "weights"):
            joined = torch.cat([getattr(batch, name) for batch in batches])
            if self.base.device.type == "cuda":
                joined = joined.pin_memory()
            rows[name] = joined.to(self.base.device, non_blocking=True)
        return rows

    def _conditioning(
        self, running: list[AdapterRun], batches: list[MicroBatch], rows: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Text embeddings of the rows' captions: cached, or computed if a text encoder is trained.

        With SDXL also the sizes of the rows' images.
        """
        captions = [caption for batch in batches for caption in batch.captions]
        trains_text_encoder = any(run.config.network.text_encoder for run in running)
        encode = self.base.encode_text if trains_text_encoder else self.data.conditioning
        return encode(captions) | self.base.size_conditioning(rows["sizes"])
