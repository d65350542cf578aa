"""The trainer: K adapters on one frozen base, an iterator over what they save."""

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
from train.loop.loss import diffusion_loss
from train.loop.random_draws import MicroBatch
from train.loop.run import AdapterRun
from train.loop.trial_spec import Checkpoint, TrialSpec
from train.lora.checkpoint import NotFiniteError
from train.models.base_model import BaseModel
from train.models.gradient_checkpointing import use_gradient_checkpointing
from train.system.distributed import ALONE, ProcessGroup

__all__ = ["Checkpoint", "Epoch", "Trainer", "TrainingError", "TrialSpec", "shared_by_a_pack"]


@dataclass(frozen=True)
class Epoch:
    """What one epoch of the pack saved.

    Attributes:
        seconds: spent on training since the last yield.
        failures: members that broke down in this epoch, with the reason.
    """

    checkpoints: list[Checkpoint]
    seconds: float
    failures: dict[int, str] = field(default_factory=dict)


def shared_by_a_pack(config: TrialConfig) -> tuple[object, ...]:
    """What trials must have in common to be trained together."""
    training, where = config.training, (config.cache, config.cache_path)
    shared = training.batch_size, training.gradient_checkpointing
    return asdict(config.data), asdict(config.base), shared, where


class Trainer:
    """Trains a pack of trials; a single trial is a pack of one.

    The members share base, pictures, resolution and batch size. Each has its own weights,
    optimizer, schedule and random stream, so that it gets the same result as when alone (within
    the rounding of other batch sizes), and its own place in its own epochs: members may join
    and leave between any two. A member whose folder holds the state of an interrupted run
    continues it, to the same bytes as if it had not been interrupted; its last saved epoch is
    yielded again first. One that was interrupted within an epoch finishes that one by itself.

    Args:
        base: from `load_base`.
        pictures: from `load_dataset`.
        members: the trials that begin; more may be added.
        processes: those that train the same members together.
        asked: whether to leave: at the end of a step it saves the states and raises
            KeyboardInterrupt.
        pausing: whether to leave at the end of an epoch: it saves the states, and yields even where
            no checkpoint is due.

    Raises:
        TrainingError: see `add`.
    """

    def __init__(
        self,
        base: BaseModel,
        pictures: Dataset,
        members: Sequence[TrialSpec] = (),
        processes: ProcessGroup = ALONE,
        asked: Callable[[], bool] | None = None,
        should_pause: Callable[[], object] = lambda: False,
    ) -> None:
        self.base, self.pictures, self.processes = base, pictures, processes
        self.asked, self.should_pause = asked, should_pause
        self.runs: dict[int, AdapterRun] = {}  # the members in training
        self.pending: list[AdapterRun] = []  # from the next epoch on
        self._added = 0
        self._shared: tuple[object, ...] | None = None
        for member in members:
            self.add(member)

    def add(self, member: TrialSpec) -> int:
        """A trial joins the pack at the next end of an epoch.

        Returns:
            the number by which `Checkpoint`, `Epoch` and `stop` call it: 0 for the first.

        Raises:
            TrainingError: it cannot share the pack, or its folder is one of other settings.
        """
        run = AdapterRun(self._added, member, self.base, self.pictures, self.processes)
        shared = shared_by_a_pack(run.config)
        if self._shared is None:
            self.data = encode_dataset(self.base, self.pictures, run.config)
            self._shared = shared
        if shared != self._shared:
            raise TrainingError(
                "a pack's trials must share base, pictures, batch size and gradient checkpointing"
            )
        self.pending.append(run)
        self._added += 1
        return run.index

    def stop(self, member: int) -> None:
        """The member trains no further; what it saved stays."""
        self.runs.pop(member, None)

    def __iter__(self) -> Iterator[Epoch]:
        began = time.perf_counter()
        while self.pending or self.runs:
            joined, self.pending = self.pending, []
            self.runs |= {run.index: run for run in joined}
            if continued := [run for run in joined if run.last]:
                self._leave([run for run in continued if run.finished])
                yield Epoch([run.last_saved() for run in continued], 0.0)
                began = time.perf_counter()
                continue  # some may have been stopped, others added
            failures = self._train_epoch(list(self.runs.values()))
            saved = self._save_due(failures)
            if should_pause := self.should_pause():
                for run in self.runs.values():
                    run.save_state()
            self._leave([run for run in self.runs.values() if run.finished])
            if saved or failures or should_pause:
                yield Epoch(saved, time.perf_counter() - began, failures)
                began = time.perf_counter()

    def _leave(self, runs: list[AdapterRun]) -> None:
        for run in runs:
            self.stop(run.index)

    def _train_epoch(self, running: list[AdapterRun]) -> dict[int, str]:
        """An epoch of each of them; those that broke down are out, with the reason."""
        use_gradient_checkpointing(self.base, running[0].config.training.gradient_checkpointing)
        for run in running:
            run.start_epoch()
        at = {run.index: run.batch for run in running}  # 0, but after an interruption
        for place in sorted(set(at.values())):
            together = [run for run in running if at[run.index] == place]
            while together := [run for run in together if run.in_epoch]:
                self.step(together, together[0].batch)
                self._leave_if_asked(together)
        failures = {run.index: reason for run in running if (reason := run.finish_epoch())}
        self._leave([run for run in running if run.index in failures])
        return failures

    def _save_due(self, failures: dict[int, str]) -> list[Checkpoint]:
        """What the members save; those with nothing worth a file join the failures and are out."""
        saved = []
        for run in [run for run in self.runs.values() if run.is_due]:
            try:
                saved.append(run.save())
            except NotFiniteError as error:
                rate = run.optimizer.param_groups[0]["lr"]
                failures[run.index] = (
                    f"{error} after epoch {run.epoch}; the likely cause is a learning rate that is "
                    f"too high ({rate:g})"
                )
                self.stop(run.index)
        return saved

    def _leave_if_asked(self, running: list[AdapterRun]) -> None:
        """Saves the states where they are due; all of them, and leaves, where it is asked for."""
        for run in running:
            run.save_state_if_due()
        if self.asked is None or not all(run.between_steps for run in running):
            return
        if self.processes.any(self.asked()):
            for run in running:
                run.save_state()
            raise KeyboardInterrupt

    def step(self, running: list[AdapterRun], step: int) -> None:
        """One forward and backward pass for all the members, rows owner by owner."""
        drawn = [run.draw(step, self.data).part(self.processes) for run in running]
        rows = self._to_device(drawn)
        with self.base.adapters.activated(
            [run.adapter for run in running], [draw.dropout for draw in drawn]
        ):
            loss = self._weighted_loss(running, drawn, rows)
            sums = [part.sum() for part in loss.chunk(len(running))]
            if len(loss):  # a process may have no row of a small batch
                torch.stack(
                    [run.scaled_loss(part, step) for run, part in zip(running, sums, strict=True)]
                ).sum().backward()
        whole = self.processes.sum(torch.stack(sums).detach())
        for run, part in zip(running, whole.unbind(), strict=True):
            run.finish_batch(step, part)

    def _weighted_loss(
        self, running: list[AdapterRun], drawn: list[MicroBatch], rows: dict[str, Tensor]
    ) -> Tensor:
        """The loss of each row times its weight."""
        if not len(rows["weights"]):
            return rows["weights"]
        loss = diffusion_loss(
            self.base, rows["latents"], rows["noise"], rows["timesteps"],
            self._conditioning(running, drawn, rows),
        )  # fmt: skip
        return loss * rows["weights"]

    def _to_device(self, drawn: list[MicroBatch]) -> dict[str, Tensor]:
        """The members' draws one after the other, copied while the device works on."""
        rows = {}
        for name in ("latents", "noise", "timesteps", "sizes", "weights"):
            joined = torch.cat([getattr(draw, name) for draw in drawn])
            if self.base.device.type == "cuda":
                joined = joined.pin_memory()
            rows[name] = joined.to(self.base.device, non_blocking=True)
        return rows

    def _conditioning(
        self, running: list[AdapterRun], drawn: list[MicroBatch], rows: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Text embeddings of the rows' captions: cached, or fresh where a text encoder learns.

        With SDXL also the sizes of the rows' pictures.
        """
        wanted = [caption for draw in drawn for caption in draw.captions]
        trains_text_encoder = any(run.config.network.text_encoder for run in running)
        text = (
            self.base.encode_text(wanted) if trains_text_encoder else self.data.conditioning(wanted)
        )
        return text | self.base.size_conditioning(rows["sizes"])
