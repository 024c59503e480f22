"""Errors of a disk that is full or read-only. This module imports little, since the confined parser uses it too."""

import errno


def is_disk_error(error: BaseException | None) -> bool:
    """Return whether a full or read-only disk caused an error, directly or through its chain of causes."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            return True
        error = error.__cause__
    return False
