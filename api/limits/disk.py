"""The check of the disk before a file is written to it (507)."""

from pathlib import Path

from anyio import to_thread

from api.errors import DiskFull
from store.disk_errors import free_bytes
from store.settings import Settings

_CHECKED_BYTES = 2**20


def check_disk(settings: Settings, size_bytes: int, folder: Path | None = None) -> None:
    """Check that the disk has space for a file and keeps `disk_min_free_bytes` free.

    Parameters
    ----------
    settings, size_bytes
        The settings, and the size of the file.
    folder
        A folder on the disk; by default that of the uploads.

    Raises
    ------
    DiskFull
        If it does not.
    """
    free = free_bytes(folder or settings.uploads_dir)
    if free - size_bytes < settings.disk_min_free_bytes:
        raise DiskFull(
            f"the disk for uploads has {free} bytes free and keeps {settings.disk_min_free_bytes} of them; the file needs "
            f"{size_bytes}",
            hint="ask the operator of the service to free space, then send the file again",
        )


class DiskWatch:
    """Checks the disk in a thread while bytes arrive: at the first ones, and after each MiB.

    Parameters
    ----------
    settings, folder
        As of `check_disk`.
    """

    def __init__(self, settings: Settings, folder: Path | None = None) -> None:
        self._settings, self._folder = settings, folder
        self._unchecked: int | None = None

    async def count(self, size_bytes: int) -> None:
        """Count bytes that are written next.

        Raises
        ------
        DiskFull
            If the disk has no space for them.
        """
        total = (self._unchecked or 0) + size_bytes
        if self._unchecked is None or total >= _CHECKED_BYTES:
            await to_thread.run_sync(check_disk, self._settings, total, self._folder)
            total = 0
        self._unchecked = total
