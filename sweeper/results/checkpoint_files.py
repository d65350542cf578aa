"""The files of a finished study, and that of the checkpoint to keep."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from sweeper.results.ranking import RankedTrial
from sweeper.results.retrain_command import again_command
from sweeper.results.snippets import reproduce_commands, root_of
from train.errors import CheckpointError
from train.lora.checkpoint_file import weights_hash
from train.text.terminal import print_lines

# in a study's folder
PICK, REPORT, RESULT = "best.safetensors", "report.html", "result.json"
PROBES, OVERVIEW = "probes.yaml", "overview.png"
POLICY = "policy_settings"  # of RESULT: the policy that made it


def find_weights(study: Path, entry: RankedTrial) -> bytes | None:
    """The file of the checkpoint selected from a trial; None: there is none, it was deleted, or it
    no longer holds the weights that were scored."""
    if entry.selection is None:
        return None
    card = entry.selection.scorecard
    wanted = {one.weights for one in entry.record.epochs if one.scorecard.epoch == card.epoch}
    for file in (card.checkpoint, study / PICK):  # it may have been the pick before
        with suppress(CheckpointError):
            if weights_hash(file) in wanted:
                return file.read_bytes()
    return None


def gone(entry: RankedTrial) -> str:
    """That a trial's checkpoint was deleted or damaged, and what brings it back."""
    assert entry.selection
    file = entry.selection.scorecard.checkpoint
    alone = again_command(entry.record)  # where MLflow does not have the run
    root = root_of(file.parent.parent.parent)
    again, *others = reproduce_commands(entry.run_id, file, root, " keep_checkpoints=all")
    if not others:
        named = f" with {' and '.join(alone.left_out)} of then" if alone.left_out else ""
        again = f"{alone.command}{named}"
    why = (
        "damaged: it does not hold the weights that were scored"
        if file.exists()
        else "gone: it was removed, or another policy held when its trial ended and "
        "study.keep_checkpoints was not all"
    )
    return f"{file} is {why}; {again} trains it again"


def those_with_files_first(study: Path, ranked: list[RankedTrial]) -> list[RankedTrial]:
    """The trials, best first; those whose checkpoint somebody has deleted come after the others."""
    lost = []
    for entry in ranked:
        if entry.selection is None or find_weights(study, entry) is not None:
            break
        lost.append(entry)
        print_lines(f"trial {entry.record.number} would be the pick, but {gone(entry)}")
    there = [entry for entry in ranked if entry not in lost and entry.selection]
    return [*there, *lost, *(entry for entry in ranked if entry.selection is None)]
