"""``latentry latents``: arrays of models, data sets and inferences, whole or in part, in the format you want."""

from pathlib import Path
from typing import Annotated, Any

import typer

from latentry.commands import deletion, downloads
from latentry.commands.calling import Call, UsageProblem, command
from latentry.commands.models import selected_model
from latentry.formatting import axes_in_words, pairs_table
from latentry.query_params import BY_ENDING

app = typer.Typer(
    help="Arrays (rates, factors, spikes, …): select, transform, write in your format.", no_args_is_help=True
)

OwnerId = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        help="A model (mod_…), data set (dat_…), inference (inf_…), or a job (job_…): its selected model.",
    ),
]
_COLLECTIONS = {"mod": "models", "dat": "datasets", "inf": "inferences"}
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        "-f",
        help="npy, npz, json, csv, arrow, parquet, hdf5, mat, nwb or zarr; default: by the file's ending.",
    ),
]
_SELECT, _CHANGE = "Select a part", "Transform it"


def _part(flag: str, help: str, metavar: str | None = None) -> Any:
    return typer.Option(flag, help=help, metavar=metavar, rich_help_panel=_SELECT)


def _change(flag: str, help: str, metavar: str | None = None) -> Any:
    return typer.Option(flag, help=help, metavar=metavar, rich_help_panel=_CHANGE)


@command(app, "list", example="latents list mod_0192f3c4a5b6aabbccddeeff")
def list_arrays(call: Call, owner_id: OwnerId) -> None:
    """List the arrays with their axes and units."""
    found = call.client.get(f"{_path(call, owner_id)}/arrays")
    rows = (
        (one["name"], axes_in_words(one), one["dtype"], one["units"], one["description"])
        for one in found["items"]
    )
    call.answer_rows(found, ("name", "axes", "type", "units", "description"), rows)


@command(app, "delete", example="latents delete mod_0192f3c4a5b6aabbccddeeff")
def delete(
    call: Call,
    model_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the model: mod_…")],
    *,
    yes: deletion.Yes = False,
    dry_run: deletion.DryRun = False,
) -> None:
    """Delete the latents of a model; `models apply` computes them again. Shows what goes, and asks."""
    deletion.delete(call, f"/v1/models/{model_id}/latents", yes=yes, dry_run=dry_run)


@command(
    app, "get", example="latents get mod_0192f3c4a5b6aabbccddeeff rates --where condition:in:3,4 -o rates.npz"
)
def get(
    call: Call,
    owner_id: OwnerId,
    name: Annotated[str, typer.Argument(help="Name of the array: rates, factors, spikes, …")],
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="File to write; - is standard output. Default: NAME.npy.",
        ),
    ] = None,
    format: Format = None,
    slice: Annotated[str | None, _part("--slice", "Positions along each axis, e.g. 0:5,::2.")] = None,
    where: Annotated[
        list[str] | None,
        _part("--where", "Trials by their metadata, e.g. condition:in:3,4; repeatable.", "NAME:OP:VALUE"),
    ] = None,
    trial: Annotated[str | None, _part("--trial", "Trials by their labels, e.g. 3,5 or 0:50.")] = None,
    time_s: Annotated[str | None, _part("--time-s", "First and last time, e.g. 0.1:0.4.")] = None,
    neuron: Annotated[str | None, _part("--neuron", "Neurons by their labels.")] = None,
    factor: Annotated[str | None, _part("--factor", "Factors by their labels.")] = None,
    split: Annotated[str | None, _part("--split", "train, valid, test, or several.")] = None,
    align_to: Annotated[str | None, _change("--align-to", "Align trials to an event.")] = None,
    window_s: Annotated[str | None, _change("--window-s", "Window around the event, e.g. -0.1:0.4.")] = None,
    event_clock: Annotated[
        str | None, _change("--event-clock", "Clock of the event's times: session or trial.")
    ] = None,
    smooth_s: Annotated[
        float | None,
        _change("--smooth-s", "Smooth in time with a Gaussian of this standard deviation in seconds."),
    ] = None,
    rebin_s: Annotated[float | None, _change("--rebin-s", "New width of the bins in seconds.")] = None,
    rotate_to: Annotated[
        str | None, _change("--rotate-to", "Rotate onto the array of another model.", "MODEL")
    ] = None,
    rotation: Annotated[str | None, _change("--rotation", "procrustes or cca.")] = None,
    components: Annotated[int | None, _change("--components", "Number of principal components.")] = None,
    average: Annotated[
        str | None, _change("--average", "Average trials by metadata, e.g. condition.")
    ] = None,
    statistic: Annotated[str | None, _change("--statistic", "mean, sem or count.")] = None,
    parameter: Annotated[
        list[str] | None,
        _part("--parameter", "Any other parameter of the request; repeatable.", "NAME=VALUE"),
    ] = None,
) -> None:
    """Write an array, or a part or a transformation of it, to a file.

    The array is streamed: the file may be larger than memory. With --json and without a file, the values are printed as JSON.
    """
    asked: dict[str, Any] = {
        "slice": slice, "where": where, "trial": trial, "time_s": time_s, "neuron": neuron, "factor": factor,
        "split": split, "align_to": align_to, "window_s": window_s, "event_clock": event_clock,
        "smooth_s": smooth_s, "rebin_s": rebin_s,
        "rotate_to": rotate_to, "rotation": rotation, "components": components, "average": average,
        "statistic": statistic, **_pairs(parameter or []),
    }  # fmt: skip
    path = f"{_path(call, owner_id)}/arrays/{name}"
    if output is None and call.as_json:
        known = {key: value for key, value in asked.items() if value not in (None, [])}
        call.answer_line(call.client.get(path, params={**known, "format": "json"}))
        return
    to = output or Path(f"{name}.{format or 'npy'}")
    chosen = _format(to, format)
    downloads.save(call, path, {**asked, "format": chosen}, to, format=chosen)


@command(app, "download", example="latents download mod_0192f3c4a5b6aabbccddeeff --format nwb -o latents.nwb")
def download(
    call: Call,
    owner_id: OwnerId,
    output: downloads.Output,
    format: Format = None,
    array: Annotated[
        list[str] | None, typer.Option(help="Only these arrays, e.g. rates; repeatable.")
    ] = None,
) -> None:
    """Write all arrays of a model, data set or inference to one file: npz, hdf5, mat, nwb or zarr."""
    chosen = _format(output, format)
    parameters = {"format": chosen, "arrays": ",".join(array) if array else None}
    downloads.save(call, f"{_path(call, owner_id)}/download", parameters, output, format=chosen)


@command(
    app, "decoding", example="latents decoding mod_0192f3c4a5b6aabbccddeeff --behaviour hand_vel --lag-s 0.08"
)
def decoding(
    call: Call,
    owner_id: OwnerId,
    *,
    behaviour: Annotated[
        str | None, typer.Option(help="Array of the data set; default: its only behaviour.")
    ] = None,
    lag_s: Annotated[
        float | None, typer.Option(help="Delay of the behaviour after the latents, in seconds.")
    ] = None,
    array: Annotated[str | None, typer.Option(help="Array to decode from; default: rates.")] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Any other parameter of the request; repeatable."),
    ] = None,
) -> None:
    """Decode behaviour from latents, and score it on trials that the decoder was not fitted on."""
    given = {"behaviour": behaviour, "lag_s": lag_s, "array": array, **_pairs(parameter or [])}
    asked = {name: value for name, value in given.items() if value is not None}
    found = call.client.get(f"{_path(call, owner_id)}/decoding", params=asked)
    shown = ("behaviour", "array", "lag_s", "held_out", "r2", "r2_of_components")
    rows = [(name, found[name]) for name in shown]
    rows += [(f"r2 of {one['name']}, {one['width_s']:g} s", one["r2"]) for one in found["baselines"]]
    rows += [("note", note) for note in found["notes"]]
    call.answer(found, lambda page: page.print(pairs_table(rows)))


def _path(call: Call, owner_id: str) -> str:
    """Return the path of the resource with this id."""
    kind = owner_id.split("_", 1)[0]
    if kind == "job":
        return f"/v1/models/{selected_model(call, owner_id)}"
    if kind not in _COLLECTIONS:
        raise UsageProblem(
            f"{owner_id!r} is not the id of a model, data set, inference or job",
            "such as mod_0192f3c4a5b6aabbccddeeff",
        )
    return f"/v1/{_COLLECTIONS[kind]}/{owner_id}"


def _format(to: Path, given: str | None) -> str:
    """Return the given format, or the format for the ending of the file's name."""
    if given is not None:
        return given
    if to.suffix not in BY_ENDING:
        raise UsageProblem(
            f"the ending of {str(to)!r} is not that of a format",
            f"give --format, or an ending of {', '.join(BY_ENDING)}",
        )
    return BY_ENDING[to.suffix]


def _pairs(parameters: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for parameter in parameters:
        name, equals, value = parameter.partition("=")
        if not equals or not name:
            raise UsageProblem(f"--parameter: expected name=value, got {parameter!r}")
        found.setdefault(name, []).append(value)
    return found
