"""What to type: to use the pick, and to train it again."""

from __future__ import annotations

import shlex
from pathlib import Path

from sweeper.recording.record import Record
from train.arguments import as_typed
from train.config import CONF, EMBEDDED, EMBEDDED_BASE
from train.weights_file import CheckpointError, read_metadata

# settings of a command that are a search's own, not a trial's
NOT_A_TRIALS = ("study.", "hydra", "search", "pruner", "pack", "policy")


def diffusers_snippet(record: Record, file: Path) -> str:
    """Python that draws a picture with the LoRA, with the steps and guidance it was scored with."""
    base, probes = record.known.base.path, record.known.probes
    if base == EMBEDDED:
        base = str(EMBEDDED_BASE.relative_to(CONF.parent))
    single = base.endswith(".safetensors")
    pipeline = "StableDiffusionXLPipeline" if _is_xl(file) else "StableDiffusionPipeline"
    load = "from_single_file" if single else "from_pretrained"
    prompt = f"a photo of {record.known.data.trigger}"
    return "\n".join((
        f"from diffusers import {pipeline}",
        "",
        f'pipeline = {pipeline}.{load}({_quoted(base)})',
        f"pipeline.load_lora_weights({_quoted(file.as_posix())})",
        f"prompt = {_quoted(prompt)}",
        f"drawn = pipeline(prompt, num_inference_steps={probes.steps}, "
        f"guidance_scale={probes.guidance:g})",
        'drawn.images[0].save("picture.png")',
    ))  # fmt: skip


def _is_xl(file: Path) -> bool:
    try:
        return "xl" in read_metadata(file).get("ss_base_model_version", "")
    except (CheckpointError, OSError):
        return False


def _quoted(text: str) -> str:
    """As Python writes it, in double quotes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def root_of(study: Path) -> str:
    """What a command needs to find the study, unless it is at the usual place: ` root=...`."""
    root = study.parent.parent.as_posix()
    return "" if root == "mlruns" else f" root={shlex.quote(root)}"


def reproduce_commands(run_id: str, file: Path, root: str) -> list[str]:
    """That from MLflow's record of a run, if it has one; that from the LoRA file alone."""
    command = "python -m sweeper.reproduce"
    recorded = [f"{command} run_id={run_id}{root}"] if run_id else []
    return [*recorded, f"{command} lora={shlex.quote(file.as_posix())}"]


def again_command(record: Record) -> str:
    """The trial by itself, from the settings that made it."""
    settings = dict(as_typed(o).split("=", 1) for o in record.overrides if "=" in o)
    kept = [f"{k}={v}" for k, v in settings.items() if not k.lstrip("+").startswith(NOT_A_TRIALS)]
    return " ".join(["python -m sweeper", *map(shlex.quote, kept)])
