"""``latentry jobs``: searches over models, from the preview of their cost to their end."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentry.commands import deletion, downloads, job_pages
from latentry.commands.calling import (
    After,
    Before,
    ByFilter,
    Call,
    Document,
    Everything,
    ExitCode,
    Limit,
    NameFilter,
    Notes,
    PageToken,
    TagFilter,
    Tags,
    TextFilter,
    Untag,
    UsageProblem,
    command,
    edit,
)
from latentry.commands.datasets import named_dataset
from latentry.commands.reading import read_document, set_values
from latentry.errors import NotDone
from latentry.formatting import number, print_plain, rows_table, time_in_words, value_in_words

if TYPE_CHECKING:
    from rich.console import Console

    from latentry import Client

app = typer.Typer(help="Searches over models: submit, watch, control.", no_args_is_help=True)

JobId = Annotated[str, typer.Argument(metavar="ID", help="Id of the job: job_…")]
ModelNumber = Annotated[
    int | None,
    typer.Option(min=0, help="Number of a model; default: the selected model, or the best so far."),
]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Watch the job until it ends.")]


@command(app, "submit", example="jobs submit --dataset reaches.nwb --preset quick --watch")
def submit(
    call: Call,
    *,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", "-d", metavar="ID|FILE", help="A data set, or a file to upload first."),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="quick, paper-2019 or autolfads.")] = None,
    models: Annotated[int | None, typer.Option(min=1, help="Number of models of the search.")] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Number of epochs of each model, at most.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="A name for the job.")] = None,
    notes: Notes = None,
    tag: Tags = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, help="Seed of the search and of training; it does not change the scored samples."
        ),
    ] = None,
    priority: Annotated[
        int | None, typer.Option(min=-10, max=10, help="Priority among your own jobs.")
    ] = None,
    specification: Annotated[
        Path | None,
        typer.Option(
            "--specification",
            "-s",
            metavar="FILE",
            help="The whole specification: JSON, YAML or TOML.",
            dir_okay=False,
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="One field, such as budget.patience_epochs=30; repeatable."
        ),
    ] = None,
    watch: Watch = False,
    validate_only: Annotated[
        bool,
        typer.Option(
            "--validate-only",
            help="Check the specification and show its cost, without creating a job.",
        ),
    ] = False,
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="A text of your choice: the same search with the same text is created only once.",
        ),
    ] = None,
) -> None:
    """Begin a search over models of one data set. Options take precedence over the file."""
    values = {
        "--dataset": ("dataset_id", dataset), "--preset": ("preset", preset), "--name": ("name", name),
        "--notes": ("notes", notes), "--tag": ("tags", tag),
        "--seed": ("seed", seed), "--priority": ("priority", priority), "--models": ("budget.models", models),
        "--epochs": ("budget.epochs", epochs),
    }  # fmt: skip
    given = {option: one for option, one in values.items() if one[1] is not None}
    call.options |= {"/" + field.replace(".", "/"): option for option, (field, _) in given.items()}
    whole = read_document(specification) if specification else {}
    whole = _with(whole, dict(given.values()))
    whole = set_values(whole, set_ or [])
    whole["dataset_id"] = _dataset_id(call, whole.get("dataset_id"))
    if validate_only:
        preview = call.client.preview_job(whole)
        call.answer(preview, lambda page: job_pages.print_preview(preview, page))
        return
    job = _begin(call, whole, idempotency_key)
    for warning in job.get("warnings", []):
        call.say(f"Warning: {warning}")
    if watch:
        call.say(f"{job['id']} is {job['state']}")
        _watch(call, job["id"])
    else:
        call.answer_text(job, f"{job['id']} is {job['state']}")


@command(app, "list", example="jobs list --state running")
def list_jobs(
    call: Call,
    *,
    state: Annotated[
        list[str] | None,
        typer.Option(help="Only jobs in this state: queued, running, paused, done, failed, …; repeatable."),
    ] = None,
    text: TextFilter = None,
    tag: TagFilter = None,
    by: ByFilter = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", "-d", metavar="ID", help="Only jobs of this data set.")
    ] = None,
    name: NameFilter = None,
    after: After = None,
    before: Before = None,
    limit: Limit = 20,
    everything: Everything = False,
    page_token: PageToken = None,
) -> None:
    """List jobs, newest first."""
    found = call.page_of(
        "/v1/jobs", limit=limit, everything=everything, page_token=page_token,
        state=state, text=text, tag=tag, dataset_id=dataset, name=name, created_by=by, created_after=after, created_before=before,
    )  # fmt: skip
    columns = (
        "id", "name", "tags", "data set", "preset", "state", ">models", ">done", ">smoothed SV loss", ">bits/spike",
        "selected model", "created",
    )  # fmt: skip
    rows = (
        (
            one["id"], one["name"], ", ".join(one["tags"]), one["dataset_name"],
            value_in_words(one["specification"]["preset"]), one["state"],
            str(one["progress"]["models"]), f"{one['progress']['fraction']:.0%}",
            number(one["progress"]["best_smoothed_sv_loss"]), number(one["progress"]["best_sv_bits_per_spike_valid"], 3),
            value_in_words(one["selected_model_id"]), time_in_words(one["created_at"]),
        )
        for one in found
    )  # fmt: skip

    def show(page: Any) -> None:
        page.print(rows_table(columns, rows))
        for line in job_pages.not_comparable(found):
            print_plain(page, line)

    call.answer(found, show)


@command(app, "show", example="jobs show job_0192f3c4a5b6aabbccddeeff")
def show(call: Call, job_id: JobId) -> None:
    """Show a job: its state, its progress, the selected model, and warnings to read before you use it."""
    job = call.client.get_job(job_id)
    call.answer(job, lambda page: job_pages.print_job(job, page))


@command(app, "watch", example="jobs watch job_0192f3c4a5b6aabbccddeeff")
def watch(call: Call, job_id: JobId) -> None:
    """Watch a job until it ends, with live learning curves; without a terminal, as plain lines.

    With --json every event is a line of JSON. Ctrl-C stops watching; the job continues.
    """
    _watch(call, job_id)


def _watch(call: Call, job_id: str) -> None:
    try:
        _follow(call, job_id)
    except KeyboardInterrupt:
        call.say(
            f"The job continues. To watch it again: latentry jobs watch {job_id}; to end it: latentry jobs stop {job_id}"
        )
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def _follow(call: Call, job_id: str) -> None:
    if call.as_json:
        for event in call.client.events(job_id):
            call.answer_line(dict(event))
        job = call.client.get_job(job_id)
        if job["state"] != "done":
            raise _not_done(job)
        return
    job_pages.print_job(follow(call.client, job_id, call.messages), call.page)


def follow(client: "Client", job_id: str, console: "Console") -> Document:
    """Show a job until it ends, then the warning of its diagnostics, and return it.

    Raises
    ------
    NotDone
        If the job failed or was cancelled.
    """
    from latentry.display import JobDisplay, TerminalDisplay

    budget = client.get_job(job_id)["specification"]["budget"]
    sizes = budget["epochs"], budget["models"]
    with TerminalDisplay(*sizes, console) if console.is_terminal else JobDisplay(*sizes) as shown:
        for event in client.events(job_id):
            shown.take(event)
            if shown.is_due:
                shown.renew(client.get_job(job_id))
            if event["kind"] in ("progress", "job.state") and not console.is_terminal:
                console.print(shown.line())
    job = client.get_job(job_id)
    if job["state"] != "done":
        raise _not_done(job)
    if warning := (job.get("diagnostics") or {}).get("warning"):
        console.print("[bold yellow]Warning:[/bold yellow]", end=" ")
        console.print(warning, highlight=False, markup=False)
    return job


def _not_done(job: Document) -> NotDone:
    return NotDone(f"the job {job['id']} is {job['state']}", (job["error"] or {}).get("message", ""))


@command(app, "edit", example="jobs edit job_0192f3c4a5b6aabbccddeeff --notes 'for the paper' --tag pilot")
def edit_job(
    call: Call,
    job_id: JobId,
    *,
    name: Annotated[str | None, typer.Option(help="A new name.")] = None,
    notes: Notes = None,
    tag: Tags = None,
    untag: Untag = None,
    priority: Annotated[
        int | None, typer.Option(min=-10, max=10, help="Priority among your own jobs.")
    ] = None,
) -> None:
    """Change the name, the notes or the priority of a job, and add or remove tags."""
    edit(call, f"/v1/jobs/{job_id}", tag, untag, name=name, notes=notes, priority=priority)


def _verb(name: str, method: str, does: str) -> None:
    def act(call: Call, job_id: JobId) -> None:
        job = getattr(call.client, method)(job_id)
        call.answer_text(job, f"{job['id']} is {job['state']}")

    act.__doc__ = does
    command(app, name, example=f"jobs {name} job_0192f3c4a5b6aabbccddeeff")(act)


_verb("pause", "pause_job", "Pause a job. Models in training finish their epoch, and their weights are kept.")
_verb("resume", "resume_job", "Resume a paused job where it was.")
_verb(
    "stop",
    "stop_job",
    "End the training: select the best model so far and compute its latents.",
)
_verb("cancel", "cancel_job", "Cancel a job now.")
_verb(
    "retry", "retry_job", "Continue a job that failed or was cancelled, from the last weights of its models."
)


@command(app, "extend", example="jobs extend job_0192f3c4a5b6aabbccddeeff --models 8 --epochs 100")
def extend(
    call: Call,
    job_id: JobId,
    *,
    models: Annotated[int, typer.Option(min=0, help="Number of further models.")] = 0,
    epochs: Annotated[int, typer.Option(min=0, help="Number of further epochs for each model.")] = 0,
    wall_seconds: Annotated[
        float, typer.Option(min=0, help="Further seconds, if the job has this limit.")
    ] = 0,
    device_seconds: Annotated[
        float, typer.Option(min=0, help="Further seconds, if the job has this limit.")
    ] = 0,
    watch: Watch = False,
) -> None:
    """Add to the budget of a job that is done or has not ended."""
    limits = {"wall_seconds": wall_seconds, "device_seconds": device_seconds}
    job = call.client.extend_job(job_id, models=models, epochs=epochs, **limits)
    if watch:
        _watch(call, job_id)
    else:
        call.answer_text(job, f"{job['id']} is {job['state']}")


@command(app, "delete", example="jobs delete job_0192f3c4a5b6aabbccddeeff")
def delete(call: Call, job_id: JobId, *, yes: deletion.Yes = False, dry_run: deletion.DryRun = False) -> None:
    """Delete a job that has ended, with its models, their weights and latents. Shows what goes, and asks."""
    deletion.delete(call, f"/v1/jobs/{job_id}", yes=yes, dry_run=dry_run)


@command(app, "events", example="jobs events job_0192f3c4a5b6aabbccddeeff --json | tail -1")
def events(
    call: Call,
    job_id: JobId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Wait for further events until the job ends.")
    ] = False,
) -> None:
    """List the events of a job so far; with --json each event is a line of JSON."""
    found = call.client.events(job_id) if follow else call.items(f"/v1/jobs/{job_id}/events", None)
    for event in found:
        if call.as_json:
            call.answer_line(dict(event))
        else:
            print_plain(call.page, job_pages.event_line(event))


@command(app, "importance", example="jobs importance job_0192f3c4a5b6aabbccddeeff")
def importance(call: Call, job_id: JobId) -> None:
    """Show which searched hyperparameters matter, and which of their values gave good models."""
    found = call.client.importance(job_id)
    call.answer(found, lambda page: job_pages.print_importance(found, page))


@command(app, "lineage", example="jobs lineage job_0192f3c4a5b6aabbccddeeff -o lineage.svg")
def lineage(
    call: Call,
    job_id: JobId,
    model: ModelNumber = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Draw the whole search as SVG.")
    ] = None,
) -> None:
    """Show from which models the weights of a model come, epoch by epoch, or draw the whole search."""
    if output is not None:
        downloads.check_output(output, ".svg")
    found = call.client.lineage(job_id, model)
    if output is not None:
        output.write_text(call.client.lineage_picture(job_id, model), "utf-8")
        call.say(f"The picture is in {output}")
    call.answer(found, lambda page: job_pages.print_lineage(found, page))


@command(app, "decisions", example="jobs decisions job_0192f3c4a5b6aabbccddeeff")
def decisions(call: Call, job_id: JobId) -> None:
    """List the decisions of the strategy about the models of a job, with reasons."""
    found = list(call.client.decisions(job_id))
    columns = (">model", ">epoch", "decision", ">SV loss", "why")
    rows = (
        (
            str(one["model_number"]), str(one["epoch"]), one["kind"].replace("_", " "),
            number(one["smoothed_sv_loss"]), one["reason"],
        )
        for one in found
    )  # fmt: skip
    call.answer_rows(found, columns, rows)


def _with(document: Document, fields: dict[str, Any]) -> Document:
    """Return the document with fields set, each named by its path."""
    import json

    return set_values(document, [f"{path}={json.dumps(value)}" for path, value in fields.items()])


def _begin(call: Call, specification: Document, idempotency_key: str | None) -> Document:
    """Return the job that was created now, or when the key was first used."""
    if idempotency_key is None:
        return call.client.create_job(specification)
    headers = {"Idempotency-Key": idempotency_key}
    job: Document = call.client.request("POST", "/v1/jobs", json=specification, headers=headers).json()
    return job


def _dataset_id(call: Call, name: str | None) -> str:
    """Return the id of the named data set; a file is uploaded first."""
    if not name:
        raise UsageProblem(
            "no data set is given", "give --dataset with an id or a file, or dataset_id in the specification"
        )
    return named_dataset(call, name)
