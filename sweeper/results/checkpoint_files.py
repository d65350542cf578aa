"""The files of a finished study, and the weights of its selected checkpoint."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from sweeper.results.ranking import RankedTrial
from sweeper.results.retrain_command import retrain_command
from sweeper.results.snippets import reproduce_commands, root_argument
from train.errors import CheckpointError
from train.lora.checkpoint_file import VARIANT_KEY, is_intact, read_metadata, weights_hash
from train.text.terminal import print_lines

# file names in a study's folder
SELECTED_FILE, REPORT_FILE, RESULT_FILE = "best.safetensors", "report.html", "result.json"
PROBES_FILE, OVERVIEW_FILE = "probes.yaml", "overview.png"
POLICY_KEY = "policy_settings"  # key in RESULT_FILE: the policy that selected the result


def find_weights(study: Path, entry: RankedTrial) -> bytes | None:
    """The content of the file of a trial's selected checkpoint.

    None if there is no such checkpoint, its file was deleted, or the file no longer contains the
    weights that were scored.
    """
    if entry.selection is None:
        return None
    card = entry.selection.scorecard
    if card.is_variant:
        return _content_of_variant(card.checkpoint, study / SELECTED_FILE)
    hashes = {epoch.weights for epoch in entry.record.epochs if epoch.scorecard.epoch == card.epoch}
    for file in (card.checkpoint, study / SELECTED_FILE):  # it may have been selected before
        with suppress(CheckpointError):
            if weights_hash(file) in hashes:
                return file.read_bytes()
    return None


def _content_of_variant(file: Path, selected: Path) -> bytes | None:
    """The content of a variant's file, or of the selected file if it is that variant.

    None if neither exists and is as it was written.
    """
    for candidate in (file, selected):
        with suppress(CheckpointError, OSError):
            named = read_metadata(candidate).get(VARIANT_KEY) == file.stem
            if named and is_intact(candidate):
                return candidate.read_bytes()
    return None


def missing_reason(entry: RankedTrial) -> str:
    """Says that a trial's checkpoint was deleted or damaged, and which command retrains it."""
    assert entry.selection
    file = entry.selection.scorecard.checkpoint
    if entry.selection.scorecard.is_variant:
        return f"{file} is gone or damaged; the command of the study makes it again"
    retrain = retrain_command(entry.record)  # if MLflow does not have the run
    root = root_argument(file.parent.parent.parent)
    command, *others = reproduce_commands(entry.run_id, file, root, " keep_checkpoints=all")
    if not others:
        settings = f" with the original {' and '.join(retrain.omitted)}" if retrain.omitted else ""
        command = f"{retrain.command}{settings}"
    why = (
        "damaged: it does not contain the weights that were scored"
        if file.exists()
        else "gone: it was deleted, or another policy was in effect when its trial ended and "
        "study.keep_checkpoints was not all"
    )
    return f"{file} is {why}; {command} retrains it"


def existing_first(study: Path, ranked: list[RankedTrial]) -> list[RankedTrial]:
    """The trials, best first, but those whose selected checkpoint is missing after the others."""
    lost = []
    for entry in ranked:
        if entry.selection is None or find_weights(study, entry) is not None:
            break
        lost.append(entry)
        print_lines(f"trial {entry.record.number} would be selected, but {missing_reason(entry)}")
    existing = [entry for entry in ranked if entry not in lost and entry.selection]
    return [*existing, *lost, *(entry for entry in ranked if entry.selection is None)]
