"""Images -> LoRA files. This package knows nothing of scores, sweeps or MLflow."""

import logging
import os
import sys
from types import TracebackType
from typing import TYPE_CHECKING

from train.lazy_names import lazy_names

if TYPE_CHECKING:
    from train.config.schema import TrainConfig
    from train.data.dataset import Dataset, load_dataset
    from train.library import train_lora, train_settings
    from train.models.base_model import BaseModel, load_base

__all__ = [
    "BaseModel",
    "Dataset",
    "TrainConfig",
    "load_base",
    "load_dataset",
    "train_lora",
    "train_settings",
]
__getattr__ = lazy_names(
    __name__,
    {
        "BaseModel": "train.models.base_model",
        "Dataset": "train.data.dataset",
        "TrainConfig": "train.config.schema",
        "load_base": "train.models.base_model",
        "load_dataset": "train.data.dataset",
        "train_lora": "train.library",
        "train_settings": "train.library",
    },
)


# OpenMP's threads wait for each other spinning, by default for so long that a training beside
# another takes ten times as long and more. With this it takes three times as long, and a tenth
# longer alone (bench/busy_machine.py). OpenMP reads it when torch is imported.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "1000"

# on import, bitsandbytes warns that it lacks a 4-bit kernel that is not used here
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _report_interrupt(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Reports Ctrl-C outside of all handlers, such as during imports, without a traceback."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted; run the same command again to continue", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if sys.excepthook is sys.__excepthook__:  # not replaced by anyone else
    sys.excepthook = _report_interrupt
