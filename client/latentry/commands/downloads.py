"""Answers that go to a file as they come, however large."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from latentry.commands.calling import Call, Document
from latentry.commands.exits import UsageProblem
from latentry.commands.formatting import bytes_in_words

if TYPE_CHECKING:
    import httpx
    from rich.progress import Progress

Output = Annotated[
    Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write; - is standard output.")
]
_TIMEOUT_SECONDS = 300.0
"""Of the longest pause: a large file may be made whole before its first byte comes."""


def stream_to_file(call: Call, path: str, parameters: Document, to: Path) -> Document:
    """GET a path into a file, which is there once all of it came.

    Parameters
    ----------
    call
        Where the service is.
    path, parameters
        What to ask for; parameters that are None are left out, lists are repeated.
    to
        The file; ``-`` for standard output.

    Returns
    -------
    dict
        ``path`` and ``bytes`` of what was written.

    Raises
    ------
    LatentryError
        If the service refuses, or the connection breaks; nothing is left behind.
    UsageProblem
        If the file can't be made.
    """
    import httpx

    from latentry.errors import NoAnswer, error_of
    from latentry.synchronous.connection import merged_url

    if str(to) == "-" and call.as_json:
        raise UsageProblem("--json and -o - both want standard output", "give a file")
    check_output(to)
    asked = {name: value for name, value in parameters.items() if value not in (None, [])}
    url, headers = merged_url(call.client.url + path, asked), call.client.headers
    try:
        with httpx.stream("GET", url, headers=headers, timeout=_TIMEOUT_SECONDS) as answer:
            if answer.is_error:
                answer.read()
                raise error_of(answer)
            with _opened(to) as file:
                size = _write(call, answer, file, to.name)
    except httpx.TransportError as error:
        if isinstance(error, httpx.ConnectError):
            hint = "is the service running? `latentry up` starts one; for another address, set LATENTRY_URL"
            raise NoAnswer(f"nothing answers at {call.url}", hint) from error
        raise NoAnswer(f"the connection to {call.url} broke: {error or type(error).__name__}") from error
    return {"path": str(to), "bytes": size}


def save(call: Call, path: str, parameters: Document, to: Path, **told: Any) -> None:
    """GET a path into a file and answer where it is; `told` is added to the answer in JSON."""
    written = stream_to_file(call, path, parameters, to)
    if str(to) != "-":
        call.answer(
            {**written, **told},
            lambda page: page.print(
                f"{to} ({bytes_in_words(written['bytes'])})", highlight=False, markup=False, soft_wrap=True
            ),
        )


def check_output(to: Path, *endings: str) -> None:
    """Refuse a file that can't be made, before anything is asked for; `-` is standard output.

    Raises
    ------
    UsageProblem
        If its folder is not there, or its name ends with none of `endings`, where there are some.
    """
    if str(to) == "-":
        return
    if endings and to.suffix not in endings:
        raise UsageProblem(f"expected a file that ends with {' or '.join(endings)}; got {str(to)!r}")
    if not to.parent.is_dir():
        raise UsageProblem(f"there is no folder {str(to.parent)!r}", "make it first: mkdir -p")


@contextmanager
def _opened(to: Path) -> Iterator[BinaryIO]:
    """The file under another name, which becomes its own when all went well."""
    if str(to) == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    part = to.with_name(to.name + ".part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(to)
    finally:
        part.unlink(missing_ok=True)


def _write(call: Call, answer: "httpx.Response", file: BinaryIO, name: str) -> int:
    length, size = answer.headers.get("Content-Length"), 0
    with transfer_progress(call) as progress:
        task = progress.add_task(name, total=int(length) if length else None)
        for block in answer.iter_bytes():
            size += file.write(block)
            progress.update(task, completed=size)
    return size


def transfer_progress(call: Call) -> "Progress":
    """A bar for bytes on their way, on standard error; nothing where that is no terminal."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
        console=call.messages, transient=True, disable=not call.messages.is_terminal,
    )  # fmt: skip
