"""Bytes from a request to the disk: whole files with their digests, and pieces of resumable uploads."""

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
from api.validation_errors import FieldProblem
from store.identifiers import new_id
from store.settings import Settings
from store.uploads import partial_path

_BLOCK_BYTES = 2**20
LONGEST_SILENCE_SECONDS = 30.0
"""A connection that brings nothing for so long is given up, so that the upload can be gone on with."""

CHECKSUMS = ("sha1", "sha256")
"""Algorithms of checksums that the tus protocol names as we do."""


@dataclass(frozen=True)
class ReceivedFile:
    """An upload on disk, under a name that nothing refers to yet."""

    path: Path
    size_bytes: int
    sha256: str


async def receive(
    chunks: AsyncIterator[bytes], settings: Settings, digest: str | None = None
) -> ReceivedFile:
    """Write a stream to disk, hashing it on the way; what was cut off, or is not what was sent, leaves no file.

    Parameters
    ----------
    chunks
        The bytes of the file.
    settings
        Where they go.
    digest
        SHA-256 that they must have, in hex.

    Raises
    ------
    Invalid
        If nothing came.
    DigestMismatch
        If something else came.
    """
    settings.uploads_dir.mkdir(parents=True, exist_ok=True)
    path = partial_path(settings, new_id("upl"))
    found, size = hashlib.sha256(), 0
    try:
        async with await anyio.open_file(path, "wb") as file:
            async for chunk in _patiently(chunks):
                found.update(chunk)
                size += len(chunk)
                await file.write(chunk)
        if size == 0:
            raise _empty_upload()
        if digest not in (None, found.hexdigest()):
            raise DigestMismatch(
                f"expected {digest}, the SHA-256 that came with the file; that of the {size} bytes that came is "
                f"{found.hexdigest()}",
                hint="it was damaged on the way, or the digest is of another file; nothing was kept: send it again",
            )
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return ReceivedFile(path, size, found.hexdigest())


def _empty_upload() -> Invalid:
    message = "expected the bytes of a file as the body, or as the part `file` of a form; nothing came"
    return Invalid(
        message,
        hint="curl --data-binary @spikes.npz -H 'Content-Type: application/octet-stream' …/v1/datasets",
        errors=[FieldProblem(pointer="/file", code="missing", message=message)],
    )


def told_sha256(content_digest: str | None, repr_digest: str | None) -> str | None:
    """SHA-256 in hex that `Content-Digest` or `Repr-Digest` (RFC 9530) give; other algorithms are passed over.

    Raises
    ------
    Invalid
        If one can't be read, or they contradict each other.
    """
    found: dict[str, str] = {}
    for name, value in (("Content-Digest", content_digest), ("Repr-Digest", repr_digest)):
        for member in (value or "").split(","):
            if not (match := re.fullmatch(r"\s*sha-256\s*=(.*)", member, re.IGNORECASE)):
                continue
            encoded = re.fullmatch(r"\s*:([A-Za-z0-9+/=]*):\s*", match[1])
            raw = _decoded(encoded[1]) if encoded else None
            if raw is None or len(raw) != 32:
                message = f"expected sha-256=:BASE64: with the 32 bytes of a SHA-256; got {member.strip()!r}"
                raise Invalid(message, errors=[FieldProblem(pointer=name, code="digest", message=message)])
            found[name] = raw.hex()
    if len(set(found.values())) > 1:
        raise Invalid("Content-Digest and Repr-Digest give different SHA-256; expected one of them")
    return next(iter(found.values()), None)


@dataclass(frozen=True)
class Checksum:
    """What the bytes of one request must hash to."""

    algorithm: str
    digest: bytes

    @classmethod
    def parse(cls, header: str | None) -> "Checksum | None":
        """Read an `Upload-Checksum`: the algorithm, a space, the digest in Base64.

        Raises
        ------
        BadRequest
            If it is something else.
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


async def append(
    descriptor: int, chunks: AsyncIterator[bytes], room: int, checksum: Checksum | None = None
) -> int:
    """Write a stream to the end of a partial file. What arrived stays, however the stream ends.

    Parameters
    ----------
    descriptor
        Of the file, open for this alone.
    chunks
        The bytes.
    room
        Most bytes that may come.
    checksum
        Of all of them. With one, they are kept only when all have come and it is right.

    Returns
    -------
    int
        Size of the file then; it is on the disk.

    Raises
    ------
    TooLarge, ChecksumMismatch
        If too many or others came; none of them is kept.
    """
    start = os.lseek(descriptor, 0, os.SEEK_END)
    digest = hashlib.new(checksum.algorithm) if checksum else None
    waiting, taken, is_kept = bytearray(), 0, checksum is None
    try:
        async for chunk in _patiently(chunks):
            taken += len(chunk)
            if taken > room:
                is_kept = False
                raise TooLarge(
                    f"the upload has room for {room} more bytes; more came, and none of them was kept"
                )
            if digest:
                digest.update(chunk)
            waiting += chunk
            if len(waiting) >= _BLOCK_BYTES:
                block = bytes(waiting)
                waiting.clear()  # first: what a full disk took of it is not written twice
                await to_thread.run_sync(_write_all, descriptor, block)
        if checksum and digest:
            if digest.digest() != checksum.digest:
                raise ChecksumMismatch(
                    f"the {checksum.algorithm} of the {taken} bytes that came is "
                    f"{base64.b64encode(digest.digest()).decode()}, not what Upload-Checksum says",
                    hint="they were damaged on the way; send them again from the same offset",
                )
            is_kept = True
    finally:
        with anyio.CancelScope(shield=True):
            if is_kept:
                await to_thread.run_sync(_write_all, descriptor, bytes(waiting))
            else:
                os.ftruncate(descriptor, start)
            await to_thread.run_sync(os.fsync, descriptor)
    return os.fstat(descriptor).st_size


async def _patiently(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same chunks, for as long as none takes too long to come."""
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
