"""Extracts the commands of the README and docs/, and runs them in a copy of the program.

`python -m tests.documented_commands < steps.json` runs all steps in one process: each does what
`python -m` does, without the time of the imports.
"""

from __future__ import annotations

import ast
import json
import re
import runpy
import shlex
import shutil
import sys
import textwrap
from dataclasses import asdict, dataclass, field
from pathlib import Path

from diffusers import StableDiffusionPipeline

PROGRAMS = ("python", "py", "make", "pip", "touch", "ray", "mlflow", "accelerate", "git", "cd",
            "ruff", "mypy")  # fmt: skip
FILE_CONTENT = re.compile(r"^```(?:yaml|toml|text)\n.*?^```$", re.DOTALL | re.MULTILINE)
WINDOWS = {".venv\\Scripts\\": ".venv/bin/", "py -m": "python -m"}
RESULT = Path("mlruns/studies/puppets/result.json")


@dataclass(frozen=True)
class Step:
    """A module with arguments, or Python code.

    Attributes:
        copies: file -> paths to which it must be copied before.
    """

    module: str
    arguments: list[str]
    code: str = ""
    copies: dict[str, list[str]] = field(default_factory=dict)


def blocks(text: str) -> list[str]:
    """Returns the indented and fenced code blocks of a Markdown text, without indentation.

    Fences that are marked as YAML, TOML or text are left out.
    """
    code_blocks: list[list[str]] = []
    fenced = inside = False
    previous = ""
    for line in FILE_CONTENT.sub("", text).splitlines():
        if line.strip().startswith("```"):
            fenced = not fenced
            if fenced:
                code_blocks.append([])
            inside = False
        elif fenced:
            code_blocks[-1].append(line)
        elif line.startswith("    ") and (inside or not previous.strip()):
            if not inside:
                code_blocks.append([])
            inside = True
            code_blocks[-1].append(line)
        elif line.strip():
            inside = False
        previous = line
    return [textwrap.dedent("\n".join(lines)) for lines in code_blocks]


def is_python(block: str) -> bool:
    """Whether a block is Python code; no shell command happens to parse as such."""
    try:
        body = ast.parse(block).body
    except SyntaxError:
        return False
    return any(not isinstance(getattr(line, "value", None), ast.Name) for line in body)


def commands(text: str) -> list[str]:
    """Returns the distinct shell commands of a text, in code blocks and in backticks."""
    found_commands: list[str] = []
    for block in (block for block in blocks(text) if not is_python(block)):
        lines = re.sub(r"\\\n\s*", "", block).splitlines()
        found_commands += [
            line.strip() for line in lines if line.strip() and line.strip()[0] != "#"
        ]
    prose = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    prose = re.sub(r"```.*?```", "", prose, flags=re.DOTALL)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    found_commands += [span for span in spans if " " in span and program_of(span) in PROGRAMS]
    return list(dict.fromkeys(found_commands))


def words(command: str) -> list[str]:
    """Splits a command as a shell does, without comments, leading variables and `...`."""
    for windows, posix in WINDOWS.items():
        command = command.replace(windows, posix)
    parts = shlex.split(command, comments=True)
    while parts and re.fullmatch(r"[A-Z_]+=.*", parts[0]):
        parts = parts[1:]
    return [part for part in parts if part != "..."]


def program_of(command: str) -> str:
    """Returns the name of the program, without its folder and version."""
    try:
        first = Path(words(command)[0]).name
    except (ValueError, IndexError):
        return ""
    return re.sub(r"[\d.]+$", "", first)


def run_step(step: Step) -> None:
    """Runs a step in this process.

    Raises:
        AssertionError: its exit code is not 0.
    """
    for source, targets in step.copies.items():
        for target in targets:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    if step.code:  # some examples leave out their import from diffusers
        exec(step.code, {"StableDiffusionPipeline": StableDiffusionPipeline})
        return
    run_id = json.loads(RESULT.read_text())["run_id"] if RESULT.is_file() else ""
    arguments = [argument.replace("RUN_ID", run_id) for argument in step.arguments]
    sys.argv = [step.module, *arguments]
    code: object = None
    try:
        runpy.run_module(step.module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    assert code in (None, 0), f"{step.module} {shlex.join(arguments)} ended with {code}"


def to_json(steps: list[Step]) -> str:
    """Formats steps for the standard input of this module."""
    return json.dumps([asdict(step) for step in steps])


if __name__ == "__main__":
    for saved in json.load(sys.stdin):
        step = Step(**saved)
        print(f"== {step.module or 'python'} {shlex.join(step.arguments)}", flush=True)
        run_step(step)
