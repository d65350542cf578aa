"""Commands and code to copy: how to use the selected checkpoint, and how to retrain it.

A study may come from a stranger, and people paste what they are shown. So each value is quoted for
its context, and nothing from a record becomes a flag or the name of code.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from evaluate.prompts.probe_set import load_probe_set
from evaluate.prompts.roles import FRESH
from sweeper.tracking.trial_record import TrialRecord
from train.config.schema import CONF, EMBEDDED, EMBEDDED_BASE
from train.errors import CheckpointError, ConfigError
from train.lora.checkpoint_file import read_metadata
from train.text.display import printable
from train.text.shell import in_shell

RUN_ID = re.compile(r"[0-9a-f]{32}")  # MLflow's format
MAX_NUMBER = 1e9  # largest number that is put into code


def example_prompt(record: TrialRecord, file: Path) -> str:
    """A prompt to try: the first of the probe set in a file; without one, the trigger alone."""
    try:
        probes = load_probe_set(str(file)).probes
    except ConfigError:  # the search is running, or the file is missing or damaged
        return f"a photo of {record.setting('data', 'trigger')}"
    return next(probe.prompt for probe in probes if probe.role == FRESH)


def diffusers_snippet(record: TrialRecord, file: Path, prompt: str) -> str:
    """Python code that generates an image with the LoRA, as in scoring (steps and guidance)."""
    base = str(record.setting("base", "path"))
    if base == EMBEDDED:
        base = str(EMBEDDED_BASE.relative_to(CONF.parent))
    is_single_file = base.endswith(".safetensors")
    pipeline = "StableDiffusionXLPipeline" if _is_xl(file) else "StableDiffusionPipeline"
    load = "from_single_file" if is_single_file else "from_pretrained"
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
        f"image = pipeline({', '.join(arguments)}).images[0]",
        'image.save("image.png")',
    ))  # fmt: skip


def python_literal(text: str) -> str:
    """A text as a one-line Python literal in double quotes."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{printable(escaped)}"'


def root_argument(study: Path) -> str:
    """The argument ` root=...` with which a command finds the study; empty for the default root."""
    root = study.parent.parent.as_posix()
    return "" if root == "mlruns" else f" root={in_shell(root)}"


def reproduce_commands(run_id: str, file: Path, root: str, extra: str = "") -> list[str]:
    """The commands that retrain a checkpoint: from its run in MLflow, if any, and from its file.

    Args:
        run_id: if it is not a valid MLflow run ID, the first command is left out.
        root: see `root_argument`.
        extra: further settings for the first command.
    """
    command = "python -m sweeper.reproduce"
    recorded = [f"{command} run_id={run_id}{extra}{root}"] if RUN_ID.fullmatch(run_id) else []
    return [*recorded, f"{command} lora={in_shell(file.as_posix())}"]


def study_command(name: str, study: Path, extra: str = "") -> str:
    """A command for a study.

    Args:
        name: name of the command.
        extra: further settings, as typed, with a leading space.
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
