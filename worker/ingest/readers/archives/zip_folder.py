"""A folder in a ZIP archive: only requested members are opened, and only ordinary files."""

import re
import stat
import zipfile
from pathlib import Path
from types import TracebackType
from typing import Self

from worker.ingest.problems import rejected

MOST_MEMBERS = 10_000
MOST_TEXT_BYTES = 32 * 2**20
_DRIVE = re.compile(r"[A-Za-z]:")


def zip_names(path: Path) -> list[str]:
    """Return the names of the files in a ZIP archive, with `/` between folders; none if it is damaged or no ZIP archive."""
    try:
        with path.open("rb") as file:
            if file.read(4) != b"PK\x03\x04":
                return []
        with zipfile.ZipFile(path) as archive:
            return [_slashes(name) for name in archive.namelist() if _is_file_of_user(_slashes(name))]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError, OverflowError):
        return []


def folder_of(name: str) -> str:
    """Return the folder part of a path, with the last `/`; empty at the top."""
    return name[: name.rfind("/") + 1]


class ZipFolder:
    """The files of a ZIP archive.

    Attributes
    ----------
    archive
        Opened.
    files
        Path → file, without folders and the files that macOS adds.

    Raises
    ------
    RejectedFile
        On opening, for too many members, and for paths outside the archive.
    """

    def __init__(self, path: Path) -> None:
        self.archive = zipfile.ZipFile(path)
        self.files: dict[str, zipfile.ZipInfo] = {}
        self._twice: set[str] = set()
        try:
            self._list()
        except BaseException:
            self.archive.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.archive.close()

    def member(self, name: str) -> zipfile.ZipInfo:
        """Return a member that is safe to open.

        Raises
        ------
        RejectedFile
            For a member that occurs twice, is a link, is encrypted, or has an unusual compression.
        """
        info = self.files[name]
        kind = stat.S_IFMT(info.external_attr >> 16)
        if name in self._twice:
            wrong, hint = "is in the archive twice", "Pack the folder again."
        elif kind not in (0, stat.S_IFREG):
            wrong, hint = (
                "is a link or another special file",
                "Pack the file itself: `zip -r` follows links.",
            )
        elif info.flag_bits & 1:
            wrong, hint = "is encrypted", "Pack the folder without a password."
        elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            wrong, hint = "is compressed in a way that is not read", "Pack the folder as an ordinary ZIP."
        else:
            return info
        raise rejected("archive_member_unusable", f"`{name[:100]}` {wrong}.", hint)

    def read_text(self, name: str) -> str:
        """Read a small file as text; bytes that are not UTF-8 are replaced."""
        info = self.member(name)
        if info.file_size > MOST_TEXT_BYTES:
            said = (
                f"`{name[:100]}` holds {info.file_size} bytes: at most {MOST_TEXT_BYTES} of a table are read."
            )
            raise rejected("file_too_large_expanded", said, "Keep what the data set needs of it.")
        return self.archive.read(info).decode("utf-8-sig", "replace").replace("\x00", "")

    def _list(self) -> None:
        infos = self.archive.infolist()
        if len(infos) > MOST_MEMBERS:
            said = f"The archive holds {len(infos)} files: at most {MOST_MEMBERS} are read."
            raise rejected("archive_too_many_members", said, "Pack only the folder of the recording.")
        for info in infos:
            name = _slashes(info.filename)
            if name.startswith("/") or ".." in name.split("/") or _DRIVE.match(name):
                said = f"The archive holds `{name[:100]}`, a path outside the archive."
                raise rejected(
                    "archive_unsafe_path", said, "Pack the folder itself, from the folder above it."
                )
            if _is_file_of_user(name):
                if name in self.files:
                    self._twice.add(name)
                self.files[name] = info


def _slashes(name: str) -> str:
    return name.replace("\\", "/")


def _is_file_of_user(name: str) -> bool:
    return not (
        name.endswith("/") or name.startswith("__MACOSX/") or name.rsplit("/", 1)[-1].startswith("._")
    )
