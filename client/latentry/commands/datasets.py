"""``latentry datasets``: upload recordings, and see what was found in them."""

from pathlib import Path
from typing import Annotated, Any

import typer

from latentry.commands import deletion, downloads, report_page
from latentry.commands.calling import (
    After,
    Before,
    ByFilter,
    Call,
    Document,
    Everything,
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
from latentry.commands.reading import read_document, set_values
from latentry.formatting import time_in_words, value_in_words

app = typer.Typer(
    help="Recordings: upload them, see their reports, read them again with other options.",
    no_args_is_help=True,
)

DatasetId = Annotated[str, typer.Argument(metavar="ID", help="Id of the data set: dat_…")]
Name = Annotated[str, typer.Option(help="A name for the data set.")]
OptionsFile = Annotated[
    Path | None,
    typer.Option(
        "--options",
        metavar="FILE",
        help="Options for reading the file, as a JSON, YAML or TOML file.",
        dir_okay=False,
    ),
]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="NAME=VALUE",
        help="One option, such as trials.align_to=go_cue_time or 'trials.window_s=[-0.25, 0.75]'; repeatable.",
    ),
]
Format = Annotated[
    str | None, typer.Option(help="Format of the file; default: recognized from its contents.")
]
BinWidth = Annotated[
    float | None, typer.Option(help="Width of a bin in seconds, if the file does not have it.")
]


def named_dataset(call: Call, name: str) -> str:
    """Return the id of the named data set; a file is uploaded first.

    Raises
    ------
    UsageProblem
        If the name is neither an id nor a file.
    """
    if Path(name).is_file():
        dataset = upload_file(call, Path(name))
        call.say(f"{name} is {dataset['id']}")
        return str(dataset["id"])
    if not name.startswith("dat_"):
        raise UsageProblem(f"{name!r} is neither the id of a data set (dat_…) nor a file")
    return name


def upload_file(
    call: Call, file: Path, name: str = "", options: Document | None = None, **fields: Any
) -> Document:
    """Upload a file with a progress bar, wait until it is read, and print the warnings of its report."""
    if not file.is_file():
        raise UsageProblem(f"{file} is not a file")
    with downloads.transfer_progress(call) as progress:
        task = progress.add_task(file.name, total=file.stat().st_size)

        def show(sent: int, size: int) -> None:
            words = f"{file.name} is uploaded and is being read" if sent == size else file.name
            progress.update(task, completed=sent, description=words)

        given = {field: value for field, value in fields.items() if value is not None}
        dataset = call.client.upload_dataset(file, name=name, options=options or None, progress=show, **given)
    say_warnings(call, dataset)
    return dict(dataset)


def say_warnings(call: Call, dataset: Document) -> None:
    """Print the warnings in the report of a data set."""
    for warning in (dataset.get("report") or {}).get("warnings", []):
        call.say(f"Warning: {warning['message']}" + (f" – {warning['hint']}" if warning.get("hint") else ""))


def _answer(call: Call, dataset: Document) -> None:
    call.answer_text(dataset, report_page.summary(dataset))


@command(app, "upload", example="datasets upload reaches.nwb --option trials.align_to=go_cue_time")
def upload(
    call: Call,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="NPZ, NWB, HDF5, MATLAB, tables, … of spikes.")
    ],
    *,
    name: Name = "",
    notes: Notes = None,
    tag: Tags = None,
    format: Format = None,
    bin_width_s: BinWidth = None,
    options: OptionsFile = None,
    option: Options = None,
) -> None:
    """Upload a file of spikes and wait until it is read.

    A large file is sent in pieces; the upload resumes when the connection breaks. The same file with the same options gives the
    same data set.
    """
    whole = set_values(read_document(options) if options else {}, option or [])
    _answer(
        call,
        upload_file(call, file, name, whole, notes=notes, tags=tag, format=format, bin_width_s=bin_width_s),
    )


@command(app, "list", example="datasets list --limit 5")
def list_datasets(
    call: Call,
    *,
    state: Annotated[
        list[str] | None,
        typer.Option(help="Only data sets in this state: ingesting, ready, rejected or failed; repeatable."),
    ] = None,
    text: TextFilter = None,
    tag: TagFilter = None,
    name: NameFilter = None,
    by: ByFilter = None,
    after: After = None,
    before: Before = None,
    limit: Limit = 20,
    everything: Everything = False,
    page_token: PageToken = None,
) -> None:
    """List data sets, newest first."""
    found = call.page_of(
        "/v1/datasets", limit=limit, everything=everything, page_token=page_token,
        state=state, text=text, tag=tag, name=name, created_by=by, created_after=after, created_before=before,
    )  # fmt: skip
    columns = (
        "id",
        "name",
        "source",
        "tags",
        "state",
        ">trials",
        ">bins",
        ">neurons",
        ">bin (ms)",
        "created",
    )
    rows = (
        (
            one["id"], one["name"], _made_of(one), ", ".join(one["tags"]), one["state"],
            *(value_in_words(one[name]) for name in ("trials", "bins", "neurons")),
            value_in_words(one["bin_width_s"] and one["bin_width_s"] * 1000), time_in_words(one["created_at"]),
        )
        for one in found
    )  # fmt: skip
    call.answer_rows(found, columns, rows)


def _made_of(dataset: Document) -> str:
    """Return the source of a data set in a few words."""
    source = dataset["source"]
    kinds = {"upload": "filename", "synthetic": "system"}
    what = source.get(kinds.get(source["kind"], "")) or source["kind"]
    return f"{what} (derived from {dataset['derived_from']})" if dataset["derived_from"] else str(what)


@command(app, "show", example="datasets show dat_0192f3c4a5b6aabbccddeeff")
def show(call: Call, dataset_id: DatasetId) -> None:
    """Show a data set: its report, its warnings, or why it was rejected."""
    dataset = call.client.get(f"/v1/datasets/{dataset_id}")
    call.answer(dataset, lambda page: report_page.print_page(dataset, page))


@command(app, "edit", example="datasets edit dat_0192f3c4a5b6aabbccddeeff --name 'day 3' --tag pilot")
def edit_dataset(
    call: Call,
    dataset_id: DatasetId,
    *,
    name: Annotated[str | None, typer.Option(help="A new name.")] = None,
    notes: Notes = None,
    tag: Tags = None,
    untag: Untag = None,
) -> None:
    """Change the name or the notes of a data set, and add or remove tags."""
    edit(call, f"/v1/datasets/{dataset_id}", tag, untag, name=name, notes=notes)


@command(app, "derive", example="datasets derive dat_0192f3c4a5b6aabbccddeeff --option rebin_s=0.02")
def derive(
    call: Call, dataset_id: DatasetId, name: Name = "", options: OptionsFile = None, option: Options = None
) -> None:
    """Read the file of a data set again with changed options; nothing is uploaded.

    Options that are not given keep their values; `--option NAME=null` resets one to its default. This also works for a
    rejected data set.
    """
    whole = set_values(read_document(options) if options else {}, option or [])
    dataset = call.client.derive_dataset(dataset_id, whole, name)
    say_warnings(call, dataset)
    _answer(call, dataset)


@command(app, "retry", example="datasets retry dat_0192f3c4a5b6aabbccddeeff")
def retry(call: Call, dataset_id: DatasetId) -> None:
    """Read the file of a failed data set again, after the service was repaired."""
    dataset = call.client.retry_dataset(dataset_id)
    say_warnings(call, dataset)
    _answer(call, dataset)


@command(app, "delete", example="datasets delete dat_0192f3c4a5b6aabbccddeeff --cascade")
def delete(
    call: Call,
    dataset_id: DatasetId,
    *,
    cascade: Annotated[
        bool,
        typer.Option(
            "--cascade", help="Also delete the jobs, inferences and combined data sets that use it."
        ),
    ] = False,
    yes: deletion.Yes = False,
    dry_run: deletion.DryRun = False,
) -> None:
    """Delete a data set, with its file unless another data set uses it. Shows what goes, and asks."""
    deletion.delete(call, f"/v1/datasets/{dataset_id}", yes=yes, dry_run=dry_run, cascade=cascade)


@command(app, "combine", example="datasets combine dat_…a dat_…b --name 'both days'")
def combine(
    call: Call,
    dataset_ids: Annotated[list[str], typer.Argument(metavar="ID…", help="Ids of two or more sessions.")],
    name: Name = "",
) -> None:
    """Combine several sessions, whose neurons differ, into one data set."""
    dataset = call.client.combine_datasets(dataset_ids, name)
    say_warnings(call, dataset)
    _answer(call, dataset)


@command(app, "synthesize", example="datasets synthesize lorenz --option conditions=20 --option seed=1")
def synthesize(
    call: Call,
    system: Annotated[str, typer.Argument(help="lorenz, chaotic_rnn, driven or two_sessions.")] = "lorenz",
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            metavar="NAME=VALUE",
            help="One parameter of the system, such as neurons=40; repeatable.",
        ),
    ] = None,
) -> None:
    """Create a synthetic data set with known true rates."""
    _answer(call, call.client.synthesize_dataset(system, **set_values({}, option or [])))


@command(app, "trials", example="datasets trials dat_0192f3c4a5b6aabbccddeeff --where condition:in:3,4")
def trials(
    call: Call,
    dataset_id: DatasetId,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME:OP:VALUE", help="Only these trials, e.g. condition:in:3,4; repeatable."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Number of entries at most; default: all.")] = None,
) -> None:
    """List the trials of a data set with their metadata."""
    found = call.items(f"/v1/datasets/{dataset_id}/trials", limit, where=where or None)
    names = list(dict.fromkeys(name for one in found for name in one["details"]))
    rows = (
        (
            str(one["trial"]), str(one["length_bins"]), value_in_words(one["split"]),
            *(value_in_words(one["details"].get(name)) for name in names),
        )
        for one in found
    )  # fmt: skip
    call.answer_rows(found, (">trial", ">bins", "split", *names), rows)


@command(app, "preview", example="datasets preview dat_0192f3c4a5b6aabbccddeeff -o reaches.png")
def preview(call: Call, dataset_id: DatasetId, output: downloads.Output = Path("preview.png")) -> None:
    """Draw a data set: spikes, mean rates by condition, the session. The file's ending gives the format, PNG or SVG."""
    downloads.check_output(output, ".png", ".svg")
    kind = "svg" if output.suffix == ".svg" else "png"
    downloads.save(call, f"/v1/datasets/{dataset_id}/preview.{kind}", {}, output)
