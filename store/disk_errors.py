"""Full and read-only disks. This module imports little, since the confined parser uses it too."""

import errno
import os
from pathlib import Path

_SQLITE_FULL = 13
_POSTGRESQL_DISK_FULL = "53100"


def is_disk_error(error: BaseException | None) -> bool:
    """Return whether a full or read-only disk caused an error, directly or through its chain of causes.

    The disk may also be that of the database.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            return True
        if getattr(error, "sqlite_errorcode", None) == _SQLITE_FULL:
            return True
        if getattr(error, "sqlstate", None) == _POSTGRESQL_DISK_FULL:
            return True
        error = error.__cause__
    return False


def free_bytes(folder: Path) -> int:
    """Return the free space of the disk of a folder, which need not exist yet, in bytes."""
    existing = next(one for one in (folder, *folder.parents) if one.exists())
    found = os.statvfs(existing)
    return found.f_bavail * found.f_frsize
