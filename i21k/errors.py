"""Which exceptions the user can fix; every other one is a bug or a failure of the machine."""

import errno

_OF_DISKS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG}


class UserError(ValueError):
    """A problem that the user can fix: bad input, a missing file, a value out of range.

    The text says what is wrong (the thing, what was given, what was expected) and what to do.
    The command line prints it without a traceback.
    """


class Stopped(Exception):
    """Work has ended before it was done, as somebody wanted: no error."""


def can_be_fixed(error: BaseException) -> bool:
    """Return whether the user can fix it: a `UserError`, or an `OSError` about a file or a disk.

    An `OSError` without a number is raised by Python code that reads or writes files, with a text.
    Every other exception must keep its traceback.
    """
    if isinstance(error, OSError):
        return error.filename is not None or error.errno is None or error.errno in _OF_DISKS
    return isinstance(error, UserError)
