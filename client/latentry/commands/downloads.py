"""Write answers to files as they arrive, however large they are."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentry.commands.calling import Call, Document, UsageProblem
from latentry.formatting import bytes_in_words

if TYPE_CHECKING:
    from rich.progress import Progress

Output = Annotated[
    Path, typer.Option("--output", "-o", metavar="FILE", help="File to write; - is standard output.")
]


def save(call: Call, path: str, parameters: Document, to: Path, **further: Any) -> None:
    """Write the body of a GET to a file, which exists only once it is complete, and print the name of the file.

    Parameters
    ----------
    call
        The run of the command.
    path, parameters
        What to request; parameters that are None are left out, lists are repeated.
    to
        The file; ``-`` for standard output.
    further
        Further fields of the answer in JSON.

    Raises
    ------
    LatentryError
        If the service refuses, or the connection breaks; then there is no file.
    UsageProblem
        If the file cannot be written.
    """
    is_stream = str(to) == "-"
    if is_stream and call.as_json:
        raise UsageProblem("--json and -o - both need standard output", "give a file")
    check_output(to)
    asked = {name: value for name, value in parameters.items() if value not in (None, [])}
    written = 0
    with transfer_progress(call) as progress:
        task = progress.add_task(to.name, total=None)

        def show(size: int, total: int | None) -> None:
            nonlocal written
            written = size
            progress.update(task, completed=size, total=total)

        call.client.download(path, sys.stdout.buffer if is_stream else to, asked, progress=show)
    if is_stream:
        sys.stdout.buffer.flush()
        return
    document = {"path": str(to), "bytes": written, **further}
    call.answer_text(document, f"{to} ({bytes_in_words(written)})")


def check_output(to: Path, *endings: str) -> None:
    """Raise `UsageProblem` if the folder of a file does not exist, or its name has none of these endings; `-` is always valid."""
    if str(to) == "-":
        return
    if endings and to.suffix not in endings:
        raise UsageProblem(f"expected a file that ends with {' or '.join(endings)}; got {str(to)!r}")
    if not to.parent.is_dir():
        raise UsageProblem(f"the folder {str(to.parent)!r} does not exist", "create it first: mkdir -p")


def transfer_progress(call: Call) -> "Progress":
    """Return a progress bar for bytes on standard error; it shows nothing outside a terminal."""
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
