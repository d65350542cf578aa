"""The commands of the README and of docs/: found in their text, and run one after the other in a
copy of the program.

`python -m tests.walking < steps.json` is the second part, in one process: every step is what
`python -m` does, less the seconds that importing takes.
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
CONTENT = re.compile(r"^```(?:yaml|toml|text)\n.*?^```$", re.DOTALL | re.MULTILINE)  # of files
WINDOWS = {".venv\\Scripts\\": ".venv/bin/", "py -m": "python -m"}
RESULT = Path("mlruns/studies/puppets/result.json")


@dataclass(frozen=True)
class Step:
    """A module with arguments, or a piece of Python.

    Attributes:
        copies: file -> copies of it that must be there first.
    """

    module: str
    arguments: list[str]
    code: str = ""
    copies: dict[str, list[str]] = field(default_factory=dict)


def blocks(text: str) -> list[str]:
    """The indented and the fenced pieces of a Markdown text, without their indentation.

    Fences that are marked as the content of a file, or as text, are left out.
    """
    found: list[list[str]] = []
    fenced = inside = False
    before = ""
    for line in CONTENT.sub("", text).splitlines():
        if line.strip().startswith("```"):
            fenced = not fenced
            if fenced:
                found.append([])
            inside = False
        elif fenced:
            found[-1].append(line)
        elif line.startswith("    ") and (inside or not before.strip()):
            if not inside:
                found.append([])
            inside = True
            found[-1].append(line)
        elif line.strip():
            inside = False
        before = line
    return [textwrap.dedent("\n".join(lines)) for lines in found]


def is_python(block: str) -> bool:
    """Whether it is Python: no line for a shell happens to be."""
    try:
        body = ast.parse(block).body
    except SyntaxError:
        return False
    return any(not isinstance(getattr(line, "value", None), ast.Name) for line in body)


def commands(text: str) -> list[str]:
    """All lines for a shell, each once: those in blocks, and those in backticks in the prose."""
    found: list[str] = []
    for block in (block for block in blocks(text) if not is_python(block)):
        lines = re.sub(r"\\\n\s*", "", block).splitlines()
        found += [line.strip() for line in lines if line.strip() and line.strip()[0] != "#"]
    prose = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    prose = re.sub(r"```.*?```", "", prose, flags=re.DOTALL)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    found += [span for span in spans if " " in span and program_of(span) in PROGRAMS]
    return list(dict.fromkeys(found))


def words(command: str) -> list[str]:
    """A command as a shell takes it apart: no comment, no variables before it, no `...`."""
    for theirs, ours in WINDOWS.items():
        command = command.replace(theirs, ours)
    parts = shlex.split(command, comments=True)
    while parts and re.fullmatch(r"[A-Z_]+=.*", parts[0]):
        parts = parts[1:]
    return [part for part in parts if part != "..."]


def program_of(command: str) -> str:
    """Its first word, without the folder that it is in and the version."""
    try:
        first = Path(words(command)[0]).name
    except (ValueError, IndexError):
        return ""
    return re.sub(r"[\d.]+$", "", first)


def perform(step: Step) -> None:
    """Does a step here and now.

    Raises:
        AssertionError: it ended with another code than 0.
    """
    for source, places in step.copies.items():
        for place in places:
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place)
    if step.code:  # what it takes from diffusers is there, whether it says so or not
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


def written(steps: list[Step]) -> str:
    """For the standard input of this module."""
    return json.dumps([asdict(step) for step in steps])


if __name__ == "__main__":
    for saved in json.load(sys.stdin):
        step = Step(**saved)
        print(f"== {step.module or 'python'} {shlex.join(step.arguments)}", flush=True)
        perform(step)
