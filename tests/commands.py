"""Runs commands of the program in forked processes, which saves the time of imports.

A fork server that has imported the libraries forks a process for each command, which then does
what `python -m` does.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping
from io import FileIO, TextIOWrapper
from multiprocessing.connection import Connection
from threading import Timer
from typing import Any, TextIO, cast

LIMIT = 300  # seconds
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "sweeper.execution.driver",
        "sweeper.commands.select",
        "sweeper.commands.report",
        "evaluate.score_files",
        "train.loop.train_one",
        "mlflow.store.tracking.sqlalchemy_store",
        "matplotlib.backends.backend_agg",
    ]
)


class Command:
    """A running command.

    Attributes:
        stdout: its standard output and standard error.
    """

    def __init__(
        self, module: str, *arguments: str, environment: Mapping[str, str] = os.environ
    ) -> None:
        reader, writer = FORKS.Pipe(duplex=False)
        spec = (module, arguments, dict(environment), os.getcwd(), writer)
        self._process = FORKS.Process(target=_run, args=spec)
        self._process.start()
        writer.close()
        self.stdout: TextIO = open(os.dup(reader.fileno()), encoding="utf-8")  # noqa: SIM115
        reader.close()

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process.pid
        os.kill(self._process.pid, number)

    def finish(self, timeout: float) -> tuple[int, str]:
        """Waits until the command ends.

        Args:
            timeout: seconds until it is killed.

        Returns:
            Its exit code, negative for a signal, and the rest of its output.
        """
        killer = Timer(timeout, self._process.kill)
        killer.start()
        output = self.stdout.read()
        self._process.join()
        killer.cancel()
        self.stdout.close()
        assert self._process.exitcode is not None
        return self._process.exitcode, output


class OwnCommand:
    """The same in a new Python process, as a user starts it, with all imports."""

    def __init__(
        self, module: str, *arguments: str, environment: Mapping[str, str] = os.environ
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-m", module, *arguments], env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
        )  # fmt: skip
        assert self._process.stdout
        self.stdout: TextIO = cast(TextIO, self._process.stdout)

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def finish(self, timeout: float) -> tuple[int, str]:
        output, _ = self._process.communicate(timeout=timeout)
        return self._process.returncode, output


def _run(
    module: str,
    arguments: tuple[str, ...],
    environment: dict[str, str],
    folder: str,
    output: Connection,
) -> None:
    """Does in the forked process what `python -u -m` does."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(output.fileno(), number)
        raw: Any = FileIO(number, "w", closefd=False)
        setattr(sys, name, TextIOWrapper(raw, encoding="utf-8", write_through=True))
    output.close()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()
