"""Where Optuna keeps a study: a journal in the study's folder, or a database by URL."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import optuna
from filelock import FileLock
from hydra.utils import instantiate
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import SQLAlchemyError

from train.config import ConfigError

JOURNAL = "optuna.journal"
NO_PRUNER = {"_target_": "optuna.pruners.NopPruner"}
# what a search looks for, first of all the fidelity
Directions = tuple[Literal["maximize", "minimize"], ...]
OBJECTIVES: dict[str, Directions] = {
    "fidelity": ("maximize",),
    "pareto": ("maximize", "minimize"),  # and the memorisation
}
optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=ExperimentalWarning)


def open_study(
    folder: Path,
    pruner: dict[str, Any],
    url: str | None = None,
    directions: Directions = OBJECTIVES["fidelity"],
) -> optuna.Study:
    """The study of a folder, created where there is none. The pruner is not stored: it is given.

    Args:
        url: of a database, as SQLAlchemy writes it; None: the journal in the folder.
        directions: of a study that is created.

    Raises:
        ConfigError: a database that cannot be reached.
    """
    return optuna.create_study(
        study_name=folder.name,
        storage=_storage(folder, url),
        directions=directions,
        pruner=instantiate(pruner),
        load_if_exists=True,
    )


def known(folder: Path, url: str | None) -> list[str]:
    """The names of the studies that there are beside this one."""
    if url is None:
        return [file.parent.name for file in folder.parent.glob(f"*/{JOURNAL}")]
    return [study.study_name for study in _storage(folder, url).get_all_studies()]


def _storage(folder: Path, url: str | None) -> BaseStorage:
    if url is not None:
        try:
            return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
        except (SQLAlchemyError, ImportError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ConfigError(f"study.storage: cannot be used: {reason}") from error
    file = folder / JOURNAL
    # the system frees this lock with its process, so that a killed one blocks nobody
    lock: Any = FileLock(f"{file}.lock")
    with lock:
        if file.exists():
            mend(file)
    return JournalStorage(JournalFileBackend(str(file), lock_obj=lock))


def mend(journal: Path) -> None:
    """Cuts off a last line that a dying process left half written.

    Optuna reads on until the next append, which would then corrupt the journal for good.
    """
    content = journal.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with journal.open("r+b") as stream:
            stream.truncate(whole)
