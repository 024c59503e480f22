"""What the commands that delete share: they show what goes, ask, and delete."""

from typing import Annotated, Any

import typer

from latentry.commands.calling import Call, ExitCode, UsageProblem
from latentry.documents import Document
from latentry.formatting import bytes_in_words

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted.")]


def delete(call: Call, path: str, *, yes: bool, dry_run: bool, **parameters: Any) -> None:
    """Show what a deletion takes with it, ask unless `yes` is given, and delete.

    Parameters
    ----------
    path
        Path of the resource.
    parameters
        Further parameters of the request.
    """
    planned = call.client.delete(path, dry_run=True, **parameters)
    if planned["refused"] and not dry_run:
        call.client.delete(path, **parameters)  # raises the error with its hint
    if dry_run:
        call.answer_text(planned, "\n".join(_lines(planned)))
        return
    if not yes:
        for line in _lines(planned):
            call.say(line)
        try:
            is_wanted = typer.confirm("Delete all of this?", err=True)
        except typer.Abort:  # the input has ended
            raise UsageProblem("nobody answered, so nothing was deleted", "give --yes") from None
        if not is_wanted:
            call.say("Nothing was deleted.")
            raise typer.Exit(ExitCode.FAILED)
    deleted = call.client.delete(path, **parameters)
    call.answer_text(deleted, f"{deleted['id']}: the service deletes this in the background")


def _lines(planned: Document) -> list[str]:
    """Return what is deleted, and what is kept, in lines of text."""
    kinds = {"datasets": "data sets", "jobs": "jobs", "models": "models", "inferences": "inferences"}
    lines = []
    for name, shown in kinds.items():
        count, ids = planned[name]["count"], planned[name]["ids"]
        if count:
            more = f" and {count - len(ids)} more" if count > len(ids) else ""
            lines.append(f"{count} {shown}: {', '.join(ids)}{more}")
    rows = [f"{count} {name.replace('_', ' ')}" for name, count in planned["rows"].items() if count]
    sizes = [
        f"{bytes_in_words(planned[name])} of {what}"
        for name, what in (("array_bytes", "arrays"), ("file_bytes", "files"))
        if planned[name]
    ]
    if rows or sizes:
        lines.append(", ".join([*rows, *sizes]))
    lines += [f"This stays: {one}" for one in planned["kept"]]
    if planned["refused"]:
        lines.append(f"The service would refuse: {planned['refused']}")
    return lines or ["nothing is left to delete"]
