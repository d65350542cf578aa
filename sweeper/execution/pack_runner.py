"""Packs: trials that are trained and scored together, each as if it were alone."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from evaluate.scorecard import Scorecard
from evaluate.tracking.environment import peak_memory
from sweeper.config import AUTO
from sweeper.execution.trial import Trial
from sweeper.stop_request import stop_reason
from sweeper.tracking.trial_record import RECORD_FILE, Cost
from train.config.parsing import cause
from train.loop.pack_size import MAX_TRIALS, pack_size
from train.loop.trainer import Checkpoint, Epoch, Trainer
from train.system.oom import is_oom, memory_of_other_processes
from train.system.outage import Outage, may_be_a_bug, outage

log = logging.getLogger(__name__)


class Queue:
    """Trials that wait for a place in a pack.

    Args:
        trials: consumed one at a time, as late as possible, so that the search knows most results.
        max_waiting: maximum number of trials that wait for a pack of their kind while trials of
            another kind are taken.
    """

    def __init__(self, trials: Iterable[Trial], max_waiting: int) -> None:
        self._upcoming, self._max_waiting = iter(trials), max_waiting
        self._waiting: list[Trial] = []

    def take(self, kind: object = None) -> Trial | None:
        """The next trial, of this kind if one is given; None if there is none."""
        for trial in self._waiting:
            if kind in (None, trial.kind):
                self._waiting.remove(trial)
                return trial
        while len(self._waiting) < self._max_waiting:
            upcoming = next(self._upcoming, None)
            if upcoming is None or kind in (None, upcoming.kind):
                return upcoming
            self._waiting.append(upcoming)
        return None

    def put_back(self, trials: Iterable[Trial]) -> None:
        """Puts trials at the front of the queue."""
        self._waiting = [*trials, *self._waiting]

    def interrupt(self) -> None:
        """Interrupts the waiting trials, so that the same command continues them."""
        for trial in self._waiting:
            trial.interrupt()


class PackError(RuntimeError):
    """Training or scoring a pack failed; `__cause__` is the reason."""


def run_trials(trials: Iterable[Trial], pack: int | str) -> None:
    """Runs trials in packs of one kind, and fills free places at once.

    If memory runs out, the pack continues with half as many trials; a single trial continues with
    less memory if `training.on_oom` allows it. After any other error, the trials continue one by
    one, so that only the one that caused it fails.

    Args:
        pack: number of trials at once, or "auto".

    Raises:
        Outage: the machine fails; the trials are as they were.
    """
    places = MAX_TRIALS if pack == AUTO else int(pack)
    queue = Queue(trials, places)
    try:
        while not stop_reason() and (first := queue.take()) is not None:
            size = places
            if pack == AUTO and not first.alone:
                size = pack_size(first.context.base, first.training_config, places)
            places = _run_pack(Pack(queue, size), first, places)
    finally:
        queue.interrupt()


def _run_pack(pack: Pack, first: Trial, places: int) -> int:
    """Runs a pack until it ends or fails; returns the number of places of the next one."""
    try:
        pack.run(first)
        pack.interrupt()  # any remaining trials
    except PackError as error:
        remaining, out_of_memory = [*pack.trials.values()], is_oom(error.__cause__)
        if len(remaining) == 1:
            _handle_single_failure(remaining[0], error, pack)
            return places
        places = max(1, len(remaining) // 2) if out_of_memory else places
        mode = f"{places} at once" if out_of_memory else "one by one"
        log.warning(f"{len(remaining)} trials at once: {error}; they continue {mode}")
        for trial in remaining:
            trial.alone = not out_of_memory
        pack.queue.put_back(remaining)
    except BaseException as error:  # Ctrl-C, or an outage
        if not may_be_a_bug(error):  # otherwise it counts as a crash
            pack.interrupt()
        raise
    return places


def _handle_single_failure(trial: Trial, pack_error: PackError, pack: Pack) -> None:
    """A trial that failed on its own continues with less memory, or is marked as failed.

    Raises:
        Outage: other programs use the memory.
    """
    error = pack_error.__cause__
    if not is_oom(error):
        return trial.mark_failed(error)
    if other_processes := memory_of_other_processes(pack.context.base.device):
        trial.interrupt()
        raise Outage(other_processes) from error
    return pack.queue.put_back([trial]) if trial.apply_next_fallback() else trial.mark_failed(error)


class Scored(NamedTuple):
    """The newly scored checkpoints of an epoch, and how long scoring took."""

    checkpoints: list[Checkpoint]
    scorecards: list[Scorecard]
    seconds: float


class Pack:
    """A running pack.

    Args:
        queue: the source of further trials of the same kind.
        places: maximum number of trials at the same time.
    """

    def __init__(self, queue: Queue, places: int) -> None:
        self.queue, self.places = queue, places
        self.trials: dict[int, Trial] = {}  # running trials by their index in the trainer

    def run(self, first: Trial) -> None:
        """Trains and scores until no trials of this kind are left, or a stop is requested.

        Epochs that are recorded already (a trial continues) are neither trained nor scored again.
        """
        self.kind, self.context = first.kind, first.context
        self.trainer = Trainer(self.context.base, self.context.dataset, should_pause=stop_reason)
        self._admit(first)
        self._fill()
        epochs = iter(self.trainer)
        while (result := self._train_and_score(epochs)) is not None:
            self._record(*result)
            if stop_reason():
                return
            self._fill()

    def interrupt(self) -> None:
        """Interrupts its trials, so that the same command continues them."""
        for trial in self.trials.values():
            trial.interrupt()

    def _fill(self) -> None:
        while len(self.trials) < self.places:
            trial = self.queue.take(self.kind)
            if trial is None:
                return
            self._admit(trial)

    def _admit(self, trial: Trial) -> None:
        try:
            trial.begin(self.places)
            self.trials[self.trainer.add(trial.spec)] = trial
        except Exception as error:
            if reason := outage(error):
                trial.interrupt()
                raise Outage(reason) from error
            trial.mark_failed(error)  # the error belongs to this trial alone

    def _train_and_score(self, epochs: Iterator[Epoch]) -> tuple[Epoch, Scored] | None:
        """The next epoch of the pack; None when no trial is left.

        Raises:
            Outage: the machine fails.
            PackError: any other error.
        """
        try:
            epoch = next(epochs, None)  # trains, saves
            if epoch is None:
                return None
            new = [
                c for c in epoch.checkpoints if not self.trials[c.index].record.has_epoch(c.epoch)
            ]
            started = time.perf_counter()
            scorecards = self.context.scorer({c.path: c.epoch for c in new}) if new else []
            spent = time.perf_counter() - started
            self._check_folders()
        except Exception as error:
            self._check_folders()
            if reason := outage(error):
                raise Outage(reason) from error
            raise PackError(cause(error)) from error
        return epoch, Scored(new, scorecards, spent)

    def _check_folders(self) -> None:
        """Detects an unmounted share: files written then land below its mount point."""
        for trial in self.trials.values():
            if not (trial.record.folder / RECORD_FILE).is_file():
                raise Outage(f"{trial.record.folder / RECORD_FILE} no longer exists")

    def _record(self, epoch: Epoch, scored: Scored) -> None:
        """Records the scores of an epoch, and ends the trials that are done."""
        self._drop_lost()
        share, memory = max(1, len(scored.checkpoints)), peak_memory(self.context.base.device)
        for checkpoint, scorecard in zip(scored.checkpoints, scored.scorecards, strict=True):
            if checkpoint.index in self.trials:
                self.trials[checkpoint.index].log(
                    checkpoint, scorecard, self.context.scorer.sheet(scorecard),
                    Cost(epoch.seconds / share, scored.seconds / share, memory),
                )  # fmt: skip
        for checkpoint in epoch.checkpoints:
            trial = self.trials.get(checkpoint.index)
            if trial and trial.should_stop(checkpoint.last):  # stopped by a rule, or complete
                self.trainer.stop(checkpoint.index)
                self._end(checkpoint.index)
        for member, reason in epoch.failures.items():
            if member in self.trials:
                self.trials[member].record.reason = reason
                self._end(member)

    def _end(self, member: int) -> None:
        """Ends a trial. It leaves the pack only after everything is written, in case that fails."""
        self.trials[member].select()
        del self.trials[member]

    def _drop_lost(self) -> None:
        """Drops trials that other workers have taken over."""
        for member in [member for member, trial in self.trials.items() if trial.lost]:
            self.trainer.stop(member)
            number = self.trials.pop(member).record.number
            log.warning(f"trial {number}  another worker has taken it over")
