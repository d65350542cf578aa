"""Pictures -> LoRA files. Knows nothing of scores, sweeps or MLflow."""

import logging
import sys
from types import TracebackType

# at its import, bitsandbytes warns that it lacks a 4-bit kernel that nothing here uses
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _report_interrupt(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Ctrl-C outside of all guards, such as while torch is imported, is a line and no traceback."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted; the same command continues", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if sys.excepthook is sys.__excepthook__:  # nobody else's
    sys.excepthook = _report_interrupt
