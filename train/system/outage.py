"""Tells errors of the machine (a disk, a share, a device, a system limit) from errors of a run.

This is the only place that classifies errors. An error of the machine says nothing about the run,
which stays resumable: the same command continues it once the machine works again.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator

from train.config.parsing import cause
from train.errors import UserError

# system errors whose text some libraries put into their own exceptions
MACHINE_ERRNOS = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE,
    errno.ENOTCONN, errno.EFBIG, errno.ENOLCK,
)  # fmt: skip
SYSTEM_ERROR = re.compile(r"\(os error \d+\)|can't start new thread")  # Rust's libraries; Python
DEVICE_ERROR = re.compile(
    r"(CUDA|HIP) error: (?!out of memory)|CUDA unknown error|CUDA driver (error|initialization)"
    r"|CU(DNN|BLAS)_STATUS_(NOT_INITIALIZED|EXECUTION_FAILED|INTERNAL_ERROR)"
    r"|No CUDA GPUs are available|Found no NVIDIA driver"
)
# device errors that a bug in the running code can cause as well as broken hardware
BUG_OR_HARDWARE = re.compile(r"device-side assert|illegal (memory access|instruction)|misaligned")
# a file in place of a folder, or vice versa: waiting does not help, a person must move it
MISPLACED = (IsADirectoryError, NotADirectoryError, FileExistsError)


class Outage(UserError, RuntimeError):
    """The machine failed, as the message says. The run itself is unchanged and can be continued."""


def outage(error: BaseException | None) -> str:
    """Describes what is wrong with the machine; empty if the error is not the machine's.

    Errors of the operating system carry an `errno`. Some libraries also raise an OSError, without
    an `errno`, for a file with invalid content: that is not the machine's.
    """
    for exception in _causes(error):
        if isinstance(exception, Outage):
            return str(exception)
        if isinstance(exception, OSError):
            # safetensors raises these without an errno
            is_system_error = exception.errno is not None or isinstance(
                exception, FileNotFoundError | PermissionError
            )
            if is_system_error:
                message = (
                    _os_error_message(exception)
                    if exception is error
                    else _join_messages(error, exception.strerror or cause(exception))
                )
                return f"{message}; move it away" if isinstance(exception, MISPLACED) else message
        if DEVICE_ERROR.search(str(exception)):
            return f"the device fails: {cause(exception)}"
        if SYSTEM_ERROR.search(str(exception)) or any(
            os.strerror(n) in str(exception) for n in MACHINE_ERRNOS
        ):
            return _join_messages(error, cause(exception))
    return ""


def ends_the_process(error: BaseException | None) -> bool:
    """Whether this process can no longer use its device, so that only a restart helps."""
    return any(DEVICE_ERROR.search(str(exception)) for exception in _causes(error))


def needs_manual_fix(error: BaseException | None) -> bool:
    """Whether waiting cannot help, since what is in the way has to be moved."""
    return any(isinstance(exception, MISPLACED) for exception in _causes(error))


def may_be_a_bug(error: BaseException | None) -> bool:
    """Whether the running code may have caused the device error, and would cause it again."""
    return any(BUG_OR_HARDWARE.search(str(exception)) for exception in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields the error and its explicit causes."""
    while error is not None:
        yield error
        error = error.__cause__


def _os_error_message(error: OSError) -> str:
    """Formats an OSError as `file: reason`."""
    reason = error.strerror or cause(error)
    return f"{error.filename}: {reason}" if error.filename else reason


def _join_messages(error: BaseException | None, reason: str) -> str:
    """Joins the message of the outermost error and the reason, without repeating it."""
    tried = cause(error) if error is not None else ""
    return tried if reason in tried else f"{tried}: {reason}"
