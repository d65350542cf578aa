"""What to type: to use the pick, and to train it again.

A study may be a stranger's, and people paste what they are shown. So each value is quoted for the
place where it stands, and nothing that a record says becomes a flag, or the name of code.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from sweeper.tracking.trial_record import TrialRecord
from train.config.schema import CONF, EMBEDDED, EMBEDDED_BASE
from train.errors import CheckpointError
from train.lora.checkpoint_file import read_metadata
from train.text.display import printable
from train.text.shell import in_shell

RUN_ID = re.compile(r"[0-9a-f]{32}")  # as MLflow makes them
MAX_NUMBER = 1e9  # of a number that a program is given


def diffusers_snippet(record: TrialRecord, file: Path) -> str:
    """Python that draws a picture with the LoRA, with the steps and guidance it was scored with."""
    base = str(record.setting("base", "path"))
    if base == EMBEDDED:
        base = str(EMBEDDED_BASE.relative_to(CONF.parent))
    is_single_file = base.endswith(".safetensors")
    pipeline = "StableDiffusionXLPipeline" if _is_xl(file) else "StableDiffusionPipeline"
    load = "from_single_file" if is_single_file else "from_pretrained"
    prompt = f"a photo of {record.setting('data', 'trigger')}"
    arguments = ["prompt"]
    for name, key, format_spec in (
        ("num_inference_steps", "steps", ""),
        ("guidance_scale", "guidance", "g"),
    ):
        value = record.setting("probes", key)
        if _is_number(value):
            arguments.append(f"{name}={value:{format_spec}}")
    return "\n".join((
        f"from diffusers import {pipeline}",
        "",
        f'pipeline = {pipeline}.{load}({python_literal(base)})',
        f"pipeline.load_lora_weights({python_literal(file.as_posix())})",
        f"prompt = {python_literal(prompt)}",
        f"drawn = pipeline({', '.join(arguments)})",
        'drawn.images[0].save("picture.png")',
    ))  # fmt: skip


def python_literal(text: str) -> str:
    """A text as Python writes it, in double quotes and in one line."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{printable(escaped)}"'


def root_argument(study: Path) -> str:
    """What a command needs to find the study, unless it is at the usual place: ` root=...`."""
    root = study.parent.parent.as_posix()
    return "" if root == "mlruns" else f" root={in_shell(root)}"


def reproduce_commands(run_id: str, file: Path, root: str, extra: str = "") -> list[str]:
    """That from MLflow's record of a run, if it has one; that from the LoRA file alone.

    Args:
        run_id: where it is not one of MLflow's, it is in no command.
        root: see `root_of`.
        more: settings for the first one.
    """
    command = "python -m sweeper.reproduce"
    recorded = [f"{command} run_id={run_id}{extra}{root}"] if RUN_ID.fullmatch(run_id) else []
    return [*recorded, f"{command} lora={in_shell(file.as_posix())}"]


def study_command(name: str, study: Path, extra: str = "") -> str:
    """A command on a study.

    Args:
        name: of the command.
        more: settings, as they are typed.
    """
    return f"python -m sweeper.{name} study={in_shell(study.name)}{extra}{root_argument(study)}"


def _is_number(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) < MAX_NUMBER and math.isfinite(value)  # type: ignore[arg-type]


def _is_xl(file: Path) -> bool:
    try:
        return "xl" in read_metadata(file).get("ss_base_model_version", "")
    except (CheckpointError, OSError):
        return False
