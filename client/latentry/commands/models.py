"""``latentry models`` and ``latentry inferences``: the models of a job, and their latents for other data."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from latentry.commands import deletion, downloads
from latentry.commands.calling import Call, Document, command
from latentry.commands.datasets import named_dataset
from latentry.commands.reading import read_spikes
from latentry.documents import is_inherited, selection_order, smoothed_loss
from latentry.errors import WrongState
from latentry.formatting import (
    axes_in_words,
    bytes_in_words,
    number,
    pairs_table,
    print_plain,
    rows_table,
    scores_in_words,
    time_in_words,
    value_in_words,
)

app = typer.Typer(
    help="Models of a job: scores, learning curves, latents of other data.", no_args_is_help=True
)

inferences = typer.Typer(
    help="Models run on data sets (`models apply`): list, show, cancel.", no_args_is_help=True
)

ModelId = Annotated[str, typer.Argument(metavar="ID", help="Id of the model: mod_…")]
LatentNames = Annotated[
    list[str] | None, typer.Option("--array", help="Only these latents, e.g. rates; repeatable.")
]
PosteriorSamples = Annotated[int | None, typer.Option(min=1, help="Number of posterior samples to average.")]
SessionNumber = Annotated[
    int | None,
    typer.Option(
        min=0, help="For a model of several sessions: number of the session that has these neurons, 0, 1, …"
    ),
]
_REFIT = "The refit was trained on the validation trials too: its losses cannot be compared with those of the other models."
_CURVES = {"sv_loss": "SV loss", "validation_loss": "validation loss", "train_loss": "training loss"}


@command(app, "list", example="models list job_0192f3c4a5b6aabbccddeeff")
def list_models(
    call: Call,
    job_id: Annotated[str, typer.Argument(metavar="JOB", help="The job: job_…")],
    limit: Annotated[int | None, typer.Option(min=1, help="Number of entries at most; default: all.")] = None,
) -> None:
    """List the models of a job, by smoothed SV loss, the lowest first.

    In population-based training, models copy each other's weights: "own SV loss" is the lowest since the last copy.
    """
    found = sorted(call.items(f"/v1/jobs/{job_id}/models", None), key=selection_order)[:limit]
    values = [_values(one) for one in found]
    names = dict.fromkeys(name for of_model in values for name in of_model)
    varied = [name for name in names if len({of_model.get(name) for of_model in values}) > 1]
    # In a population: which model trained the shared weights, and the lowest loss of each model since it copied them.
    inherits = any(is_inherited(one) for one in found)
    inherited_columns = (">trained by", ">own SV loss") if inherits else ()
    columns = (
        ">number",
        "id",
        "state",
        ">epochs",
        ">smoothed SV loss",
        ">bits/spike",
        *inherited_columns,
        ">validation loss",
        *(f">{name}" for name in varied),
        "",
    )
    rows = (
        (
            str(one["number"]), one["id"], one["state"], str(one["epochs_trained"]),
            number(smoothed_loss(one)),
            number(one["scores"].get("sv_bits_per_spike_valid"), 3),
            *(_inheritance(one) if inherits else ()),
            number(one["scores"].get("validation_loss")),
            *(value_in_words(of_model.get(name)) for name in varied),
            "selected" if one["is_selected"] else "",
        )
        for one, of_model in zip(found, values, strict=True)
    )  # fmt: skip

    def show(page: Any) -> None:
        page.print(rows_table(columns, rows))
        if len({one["scored_on"] for one in found}) > 1:
            print_plain(page, _REFIT)

    call.answer(found, show)


def _inheritance(model: Document) -> tuple[str, str]:
    """Return which model trained its kept weights, and its own lowest loss since it copied them."""
    trained_by = f"model {model['trained_by']}" if is_inherited(model) else "itself"
    return trained_by, number(model["scores"].get("own_smoothed_sv_loss"))


@command(app, "show", example="models show mod_0192f3c4a5b6aabbccddeeff")
def show(call: Call, model_id: ModelId) -> None:
    """Show a model: scores, hyperparameters, sizes."""
    model = call.client.get_model(model_id)
    call.answer(
        dict(model),
        lambda page: page.print(
            pairs_table(_model(model)),
            "\n[bold]Scores[/bold]",
            pairs_table(scores_in_words(model)),
            *(
                part
                for title in ("hyperparameters", "architecture")
                for part in (f"\n[bold]{title.capitalize()}[/bold]", pairs_table(model[title].items()))
            ),
            sep="\n",
        ),
    )


def _model(model: Document) -> Iterator[tuple[str, Any]]:
    yield "model", model["id"]
    yield "job", f"{model['job_id']}, number {model['number']}"
    yield "state", model["state"] + (", selected" if model["is_selected"] else "")
    yield "epochs", model["epochs_trained"]
    yield "scored on", model["scored_on"]
    if (best := model["scores"].get("best_epoch")) is not None:
        trained_by = f", trained by model {model['trained_by']}" if is_inherited(model) else ""
        yield "kept weights", f"of epoch {best:.0f}{trained_by}"
    if (present := model.get("present_hyperparameters", {})) != model["hyperparameters"]:
        changed = {
            name: value for name, value in present.items() if value != model["hyperparameters"].get(name)
        }
        yield "trained last with", changed
    yield "ended", model.get("end_reason")


@command(app, "curve", example="models curve mod_0192f3c4a5b6aabbccddeeff")
def curve(
    call: Call,
    model_id: ModelId,
    height: Annotated[int, typer.Option(min=1, max=60, help="Lines of the drawing.")] = 8,
) -> None:
    """Draw the learning curve of a model: the SV loss, which selects models, and the other losses."""
    found = call.client.get(f"/v1/models/{model_id}/learning_curve")

    def show(page: Any) -> None:
        from latentry.display import chart, sparkline

        points = found["points"]
        if not points:
            page.print("No epoch has ended yet.")
            return
        losses = {name: [one[name] for one in points if one[name] is not None] for name in _CURVES}
        width = min(page.width, 100) - 12
        page.print(f"SV loss (nats per sample) over epochs 1 … {points[-1]['epoch']}", highlight=False)
        page.print("\n".join(chart(losses["sv_loss"], width, height)), highlight=False, markup=False)
        for name, words in _CURVES.items():
            if losses[name]:
                ends = f"{losses[name][0]:.4f} → {losses[name][-1]:.4f}, lowest {min(losses[name]):.4f}"
                page.print(f"{words:<14} {sparkline(losses[name])}  {ends}", highlight=False)

    call.answer(found, show)


@command(app, "dynamics", example="models dynamics mod_0192f3c4a5b6aabbccddeeff")
def dynamics(
    call: Call,
    model_id: ModelId,
    starts: Annotated[
        int | None, typer.Option(min=0, help="States to search for fixed points from; 0: no search.")
    ] = None,
) -> None:
    """Show the eigenvalues and the fixed points of a model's generator, without inputs."""
    found = call.client.get(f"/v1/models/{model_id}/dynamics", {"starts": starts})

    def shown(one: Document) -> tuple[str, str, str]:
        return number(one["magnitude"]), number(one["time_constant_ms"], 1), number(one["frequency_hz"], 2)

    def show(page: Any) -> None:
        if found["eigenvalues"] is not None:
            rows = map(shown, found["eigenvalues"])
            page.print(rows_table((">|λ|", ">time constant (ms)", ">frequency (Hz)"), rows))
        columns = ("fixed point", ">starts", ">distance", ">unstable", ">slowest (ms)", ">its frequency (Hz)")
        points = (
            (
                str(index), str(one["starts"]), number(one["distance"], 2), str(one["unstable_dimensions"]),
                *shown(one["eigenvalues"][0])[1:],
            )
            for index, one in enumerate(found["fixed_points"])
        )  # fmt: skip
        page.print(rows_table(columns, points))
        if found["note"]:
            print_plain(page, found["note"])

    call.answer(found, show)


@command(
    app, "apply", example="models apply mod_0192f3c4a5b6aabbccddeeff --dataset dat_0192f3c4a5b6aabbccddeeff"
)
def apply(
    call: Call,
    model_id: ModelId,
    *,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            "-d",
            metavar="ID|FILE",
            help="A data set of the same neurons, or a file to upload; default: the data set of the model.",
        ),
    ] = None,
    array: LatentNames = None,
    posterior_samples: PosteriorSamples = None,
    session: SessionNumber = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is done.")] = True,
) -> None:
    """Compute latents of a model for a data set. Read them with the id of the inference that the command prints."""
    given = {
        "dataset_id": None if dataset is None else named_dataset(call, dataset),
        "arrays": array or None,
        "posterior_samples": posterior_samples,
        "session": session,
    }
    body = {name: value for name, value in given.items() if value is not None}
    inference = call.client.inference_of(call.client.post(f"/v1/models/{model_id}:apply", body))
    call.say(f"{inference.id} is {inference.state}")
    if wait:
        inference.wait()
    call.answer_text(inference, f"{inference.id} is {inference.state}")


@command(app, "infer", example="models infer mod_0192f3c4a5b6aabbccddeeff one_trial.npy -o latents.npz")
def infer(
    call: Call,
    model_id: ModelId,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Spike counts of one or a few trials: bins × neurons, or trials × bins × neurons.",
        ),
    ],
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the latents as npz.")
    ] = None,
    array: LatentNames = None,
    posterior_samples: PosteriorSamples = None,
    session: SessionNumber = None,
) -> None:
    """Compute latents of one or a few trials immediately, without storing them. FILE is npy, npz or JSON."""
    if output is not None:
        downloads.check_output(output, ".npz")
    spikes = read_spikes(file)
    asked = {
        "arrays": ",".join(array) if array else None, "posterior_samples": posterior_samples, "session": session,
        "format": "npz" if output else "json",
    }  # fmt: skip
    answer = call.client.request(
        "POST",
        f"/v1/models/{model_id}:infer",
        params=asked,
        content=lambda: iter([spikes]),
        headers={"Content-Type": "application/x-npy"},
    )
    if output is not None:
        output.write_bytes(answer.content)
        written = {"path": str(output), "bytes": len(answer.content), "format": "npz"}
        call.answer_text(written, f"{output} ({bytes_in_words(len(answer.content))})")
        return
    found = answer.json()
    rows = ((name, axes_in_words(one), one["units"]) for name, one in found["arrays"].items())
    call.answer_rows(found, ("latents", "axes", "units"), rows)


InferenceId = Annotated[str, typer.Argument(metavar="ID", help="Id of the inference: inf_…")]


@command(inferences, "list", example="inferences list")
def list_inferences(
    call: Call,
    limit: Annotated[int, typer.Option(min=1, help="Number of entries at most, newest first.")] = 20,
) -> None:
    """List inferences."""
    found = call.items("/v1/inferences", limit)
    rows = (
        (
            one["id"], one["state"], f"{one['progress']['fraction']:.0%}", one["model_id"], one["dataset_id"],
            time_in_words(one["created_at"]),
        )
        for one in found
    )  # fmt: skip
    call.answer_rows(found, ("id", "state", ">done", "model", "data set", "created"), rows)


@command(inferences, "show", example="inferences show inf_0192f3c4a5b6aabbccddeeff")
def show_inference(call: Call, inference_id: InferenceId) -> None:
    """Show an inference: its progress and its scores."""
    _answer_inference(call, call.client.get_inference(inference_id))


@command(inferences, "cancel", example="inferences cancel inf_0192f3c4a5b6aabbccddeeff")
def cancel_inference(call: Call, inference_id: InferenceId) -> None:
    """Cancel an inference now."""
    _answer_inference(call, call.client.act(f"/v1/inferences/{inference_id}:cancel"))


@command(inferences, "delete", example="inferences delete inf_0192f3c4a5b6aabbccddeeff")
def delete_inference(
    call: Call, inference_id: InferenceId, *, yes: deletion.Yes = False, dry_run: deletion.DryRun = False
) -> None:
    """Delete an inference with its latents. Shows what goes, and asks."""
    deletion.delete(call, f"/v1/inferences/{inference_id}", yes=yes, dry_run=dry_run)


def _answer_inference(call: Call, inference: Document) -> None:
    shown = {
        "inference": inference["id"], "state": inference["state"], "model": inference["model_id"],
        "data set": inference["dataset_id"], "arrays": inference["arrays"],
        "trials": f"{inference['progress']['trials_done']} of {inference['progress']['trials']}",
        **dict(scores_in_words(inference)), "error": (inference.get("error") or {}).get("message"),
    }  # fmt: skip
    call.answer(dict(inference), lambda page: page.print(pairs_table(shown.items())))


def selected_model(call: Call, job_id: str) -> str:
    """Return the id of the final model of a job, or of the model that it selected.

    Raises
    ------
    WrongState
        If it has not selected a model yet.
    """
    job = call.client.get_job(job_id)
    selected = job.get("final_model_id") or job.get("selected_model_id")
    if selected is None:
        raise WrongState(f"the job {job_id} is {job['state']} and has selected no model yet")
    return str(selected)


def _values(model: Document) -> Document:
    """Return the hyperparameters of a model, and the kind and sizes of its network."""
    sizes = {name: value for name, value in model["architecture"].items() if isinstance(value, int | str)}
    return {**model["hyperparameters"], **sizes}


def register_export(app: typer.Typer, panel: str) -> None:
    """Add ``latentry export`` to a panel of the main help."""

    @command(
        app, "export", panel=panel, example="export mod_0192f3c4a5b6aabbccddeeff -o model.zip --program onnx"
    )
    def export(
        call: Call,
        model_id: Annotated[
            str, typer.Argument(metavar="ID", help="A model (mod_…), or a job (job_…): its selected model.")
        ],
        output: downloads.Output = Path("model.zip"),
        program: Annotated[
            str | None, typer.Option(help="Add the whole network as a program: torch_export or onnx.")
        ] = None,
        session: SessionNumber = None,
    ) -> None:
        """Write a model as a zip: weights as safetensors, a description, and code that loads it without this service."""
        if model_id.startswith("job_"):
            model_id = selected_model(call, model_id)
        downloads.save(
            call, f"/v1/models/{model_id}/export", {"program": program, "session": session}, output
        )
