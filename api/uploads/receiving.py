"""Write the bytes of requests to disk: whole files, and pieces of resumable uploads."""

import base64
import binascii
import hashlib
import os
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio import to_thread
from starlette.requests import ClientDisconnect

from api.errors import BadRequest, ChecksumMismatch, DigestMismatch, Invalid, TooLarge
from api.limits.disk import DiskWatch
from api.limits.request_turns import without_turn
from store.identifiers import new_id
from store.settings import Settings
from store.uploads import partial_path

_BLOCK_BYTES = 2**20
LONGEST_SILENCE_SECONDS = 30.0
"""The server closes a connection that is silent for this long, so that the client can continue the upload."""

CHECKSUMS = ("sha1", "sha256")
"""Supported checksum algorithms, by their names in the tus protocol."""


@dataclass(frozen=True)
class ReceivedFile:
    """A file on disk, under a temporary name."""

    path: Path
    size_bytes: int
    sha256: str


async def receive(
    chunks: AsyncIterator[bytes], settings: Settings, digest: str | None = None
) -> ReceivedFile:
    """Write a stream to disk and compute its SHA-256. After an error no file remains.

    Parameters
    ----------
    chunks
        The bytes of the file.
    settings
        The settings, which tell the folder.
    digest
        Expected SHA-256, in hex.

    Raises
    ------
    Invalid
        If the stream is empty.
    DigestMismatch
        If the SHA-256 differs from the expected one.
    """
    settings.uploads_dir.mkdir(parents=True, exist_ok=True)
    path = partial_path(settings, new_id("upl"))
    found, size, disk = hashlib.sha256(), 0, DiskWatch(settings)
    try:
        async with await anyio.open_file(path, "wb") as file, without_turn():
            async for chunk in _with_timeout(chunks):
                found.update(chunk)
                size += len(chunk)
                await disk.count(len(chunk))
                await file.write(chunk)
        if size == 0:
            raise _empty_upload()
        if digest not in (None, found.hexdigest()):
            raise DigestMismatch(
                f"expected the SHA-256 {digest}; the {size} received bytes have {found.hexdigest()}",
                hint="the file was damaged during the transfer, or the digest belongs to another file; nothing was stored: "
                "send the file again",
            )
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return ReceivedFile(path, size, found.hexdigest())


def _empty_upload() -> Invalid:
    return Invalid.field(
        "/file",
        "missing",
        "expected the bytes of a file as the body, or as the part `file` of a form; got no bytes",
        "curl --data-binary @spikes.npz -H 'Content-Type: application/octet-stream' …/v1/datasets",
    )


def expected_sha256(content_digest: str | None, repr_digest: str | None) -> str | None:
    """Return the SHA-256 in `Content-Digest` or `Repr-Digest` (RFC 9530), in hex. Other algorithms are ignored.

    Raises
    ------
    Invalid
        If a header is malformed, or the two headers differ.
    """
    found: dict[str, str] = {}
    for name, value in (("Content-Digest", content_digest), ("Repr-Digest", repr_digest)):
        for member in (value or "").split(","):
            if not (match := re.fullmatch(r"\s*sha-256\s*=(.*)", member, re.IGNORECASE)):
                continue
            encoded = re.fullmatch(r"\s*:([A-Za-z0-9+/=]*):\s*", match[1])
            raw = _decoded(encoded[1]) if encoded else None
            if raw is None or len(raw) != 32:
                message = (
                    f"expected sha-256=:BASE64: with the 32 bytes of a SHA-256; got {member.strip()[:100]!r}"
                )
                raise Invalid.field(name, "digest", message)
            found[name] = raw.hex()
    if len(set(found.values())) > 1:
        raise Invalid("Content-Digest and Repr-Digest contain different SHA-256 values; expected equal ones")
    return next(iter(found.values()), None)


@dataclass(frozen=True)
class Checksum:
    """The expected checksum of the bytes of one request."""

    algorithm: str
    digest: bytes

    @classmethod
    def parse(cls, header: str | None) -> "Checksum | None":
        """Return the checksum in the header `Upload-Checksum`: the algorithm, a space, the digest in Base64.

        Raises
        ------
        BadRequest
            If the header has another form.
        """
        if header is None:
            return None
        algorithm, _, encoded = header.strip().partition(" ")
        digest = _decoded(encoded)
        if algorithm not in CHECKSUMS or digest is None:
            raise BadRequest(
                f"Upload-Checksum: expected one of {', '.join(CHECKSUMS)}, a space and the digest in Base64; got {header!r}"
            )
        return cls(algorithm, digest)

    def check(self, digest: bytes, size_bytes: int) -> None:
        """Raise `ChecksumMismatch` unless the digest of the received bytes is the expected one."""
        if digest != self.digest:
            raise ChecksumMismatch(
                f"the {self.algorithm} of the {size_bytes} received bytes is {base64.b64encode(digest).decode()}, which differs "
                "from Upload-Checksum",
                hint="the bytes were damaged during the transfer; send them again from the same offset",
            )


async def append(
    descriptor: int,
    chunks: AsyncIterator[bytes],
    room: int,
    checksum: Checksum | None = None,
    *,
    settings: Settings,
) -> int:
    """Append a stream to a partial file. If the stream breaks off, the bytes that arrived stay in the file.

    Parameters
    ----------
    descriptor
        The file, which this request has locked.
    chunks
        The bytes.
    room
        Maximum number of bytes.
    checksum
        Checksum of all bytes. With a checksum, the bytes stay only if all of them arrive and match.
    settings
        The settings, which tell how much space the disk keeps.

    Returns
    -------
    int
        The new size of the file, which is flushed to disk.

    Raises
    ------
    TooLarge, ChecksumMismatch
        If there are too many bytes, or the checksum does not match. The file is then unchanged.
    DiskFull
        If the disk has no space. Bytes that arrived before stay in the file.
    """
    start = os.lseek(descriptor, 0, os.SEEK_END)
    digest = hashlib.new(checksum.algorithm) if checksum else None
    buffer, received, is_kept = bytearray(), 0, checksum is None
    disk = DiskWatch(settings)
    try:
        async with without_turn():
            async for chunk in _with_timeout(chunks):
                received += len(chunk)
                if received > room:
                    is_kept = False
                    raise TooLarge(
                        f"the upload accepts {room} more bytes; the request has more, and none of them was stored"
                    )
                if digest:
                    digest.update(chunk)
                buffer += chunk
                if len(buffer) >= _BLOCK_BYTES:
                    block = bytes(buffer)
                    buffer.clear()  # before the write: if the disk is full, no byte is written twice
                    await disk.count(len(block))
                    await to_thread.run_sync(_write_all, descriptor, block)
        if checksum and digest:
            checksum.check(digest.digest(), received)
            is_kept = True
    finally:
        with anyio.CancelScope(shield=True):
            if is_kept:
                await to_thread.run_sync(_write_all, descriptor, bytes(buffer))
            else:
                os.ftruncate(descriptor, start)
            await to_thread.run_sync(os.fsync, descriptor)
    return os.fstat(descriptor).st_size


async def _with_timeout(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the chunks, or raise `ClientDisconnect` if one takes too long."""
    while True:
        try:
            with anyio.fail_after(LONGEST_SILENCE_SECONDS):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise ClientDisconnect from None
        yield chunk


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _decoded(encoded: str) -> bytes | None:
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return None
