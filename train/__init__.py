"""Images -> LoRA files. This package knows nothing of scores, sweeps or MLflow."""

import logging
import sys
from types import TracebackType

# on import, bitsandbytes warns that it lacks a 4-bit kernel that is not used here
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _report_interrupt(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Reports Ctrl-C outside of all handlers, such as during imports, without a traceback."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted; the same command continues", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if sys.excepthook is sys.__excepthook__:  # not replaced by anyone else
    sys.excepthook = _report_interrupt
