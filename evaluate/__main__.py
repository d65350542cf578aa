"""`python -m evaluate checkpoints='out/*.safetensors'`: scores LoRA files and selects one."""

from __future__ import annotations

from evaluate.config import EvaluateConfig, check_evaluate
from evaluate.variants.arguments import expand_strengths
from train.cli.app import run

if __name__ == "__main__":
    run(
        "evaluate",
        EvaluateConfig,
        check_evaluate,
        "evaluate.score_files:main",
        translate=expand_strengths,
    )
