"""Whether an error is the machine's: a disk, a share, a device, a limit of the system.

The one place that tells such errors from those of a run's own. A run that the machine fails is as
good as it was: the same command continues it once the machine works again.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator

from train.config import UserError, cause

# what libraries say in words of their own where the system has refused something
REFUSED = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE,
    errno.ENOTCONN, errno.EFBIG, errno.ENOLCK,
)  # fmt: skip
SYSTEM = re.compile(r"\(os error \d+\)|can't start new thread")  # Rust's libraries; Python
DEVICE = re.compile(
    r"(CUDA|HIP) error: (?!out of memory)|CUDA unknown error|CUDA driver (error|initialization)"
    r"|CU(DNN|BLAS)_STATUS_(NOT_INITIALIZED|EXECUTION_FAILED|INTERNAL_ERROR)"
    r"|No CUDA GPUs are available|Found no NVIDIA driver"
)
# how a device ends where a kernel did what it may not: a mistake of what runs on it, or worn memory
BROKEN = re.compile(r"device-side assert|illegal (memory access|instruction)|misaligned")


class Outage(UserError, RuntimeError):
    """The machine fails what runs on it. The run itself is as it was; the message says what is
    wrong with the machine."""


def outage(error: BaseException | None) -> str:
    """What is wrong with the machine, in words; empty: the error is none of the machine's.

    What the system refuses has a number (`errno`). A file that cannot be read as what it should be
    is an OSError for some libraries too, without one.
    """
    for one in _causes(error):
        if isinstance(one, Outage):
            return str(one)
        if isinstance(one, OSError):
            # a library of Rust gives no number with these
            refused = one.errno is not None or isinstance(one, FileNotFoundError | PermissionError)
            if refused:
                return _in_words(one) if one is error else _both(error, one.strerror or cause(one))
        if DEVICE.search(str(one)):
            return f"the device fails: {cause(one)}"
        if SYSTEM.search(str(one)) or any(os.strerror(n) in str(one) for n in REFUSED):
            return _both(error, cause(one))
    return ""


def ends_the_process(error: BaseException | None) -> bool:
    """Whether this process cannot use its device any more, whatever is done about it."""
    return any(DEVICE.search(str(one)) for one in _causes(error))


def is_doubtful(error: BaseException | None) -> bool:
    """Whether what ran on a device may have broken it: if so, it does it again."""
    return any(BROKEN.search(str(one)) for one in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and those that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__


def _in_words(error: OSError) -> str:
    """What cannot be done with which file."""
    reason = error.strerror or cause(error)
    return f"{error.filename}: {reason}" if error.filename else reason


def _both(error: BaseException | None, reason: str) -> str:
    """What was tried, and why it failed."""
    tried = cause(error) if error is not None else ""
    return tried if reason in tried else f"{tried}: {reason}"
