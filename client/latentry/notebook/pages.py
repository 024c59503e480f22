"""The page of each kind of resource, made from its document."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from latentry.documents import ArrayDocument, CurvePoint, settled
from latentry.errors import LatentryError
from latentry.formatting import axes_in_words, left_in_words
from latentry.notebook.drawing import curves_svg
from latentry.notebook.elements import Html, bar, block, heading, line, notes, picture, table

MOST_CURVES = 10
"""Number of learning curves drawn for a job: those of its best models."""

_SV_LOSS = "SV loss (nats per sample)"
Points = Sequence[CurvePoint]


def shown(html: Callable[[], Any], otherwise: Callable[[], str]) -> str:
    """Return the page that `html` makes by requests; `otherwise()` if it cannot be awaited or the service does not answer."""
    try:
        return settled(html(), otherwise)
    except LatentryError:
        return otherwise()


def dataset_html(dataset: Mapping[str, Any], picture_source: str) -> str:
    """Return the page of a data set: its size, its warnings, and the picture at this data URL (none if empty)."""
    report = dataset.get("report") or {}
    size = ""
    if dataset.get("trials") is not None:
        size = (
            f"{dataset['trials']} trials × {dataset['bins']} bins of {1000 * dataset['bin_width_s']:g} ms × "
            f"{dataset['neurons']} neurons"
        )
        if (rate := report.get("mean_rate_hz")) is not None:
            size += f", mean rate {rate:.3g} spikes/s"
    return block(
        heading("Data set", dataset.get("name", ""), dataset["id"], dataset.get("state", "")),
        line(size),
        notes([_with_hint(one) for one in dataset.get("problems") or []], "Rejected:", "#b83232"),
        notes([_with_hint(one) for one in report.get("warnings") or []], "Warnings:"),
        notes([*_alternatives(report)], "Variables of the file that were not used:"),
        picture(picture_source, "preview of the data set"),
    )


def _alternatives(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield for each variable that was chosen among several which others the file has."""
    for one in report.get("understood") or []:
        if one.get("alternatives"):
            yield f"{one['what']} is {one['variable']}; not taken: {', '.join(one['alternatives'])}"


def job_html(
    job: Mapping[str, Any], models: Sequence[Mapping[str, Any]], curves: Mapping[int, Points]
) -> str:
    """Return the page of a job: its progress, its models (the best first), and learning curves by the number of the model."""
    progress, diagnostics = job.get("progress") or {}, job.get("diagnostics") or {}
    best = models[0]["number"] if models else None
    drawn = {
        f"model {number}": [(point["epoch"], point["sv_loss"]) for point in points]
        for number, points in curves.items()
    }
    return block(
        heading("Job", job.get("name", ""), job["id"], job.get("state", "")),
        bar(progress.get("fraction") or 0.0),
        line(_progress_in_words(progress)),
        notes([(job.get("error") or {}).get("message", "")] if job.get("error") else [], "Failed:", "#b83232"),
        notes([text] if (text := diagnostics.get("warning")) else [], "Before you use the latents:"),
        curves_svg(drawn, _SV_LOSS, f"model {best}"),
        table(
            ("model", "state", "epochs", "smoothed SV loss", "bits per spike", "validation loss", ""),
            [
                (
                    model["number"], model["state"], model["epochs_trained"], model["scores"].get("smoothed_sv_loss"),
                    model["scores"].get("sv_bits_per_spike_valid"), model["scores"].get("validation_loss"),
                    "selected" if model.get("is_selected") else "",
                )
                for model in models[:MOST_CURVES]
            ],
        ),
        line(f"… and {len(models) - MOST_CURVES} more models") if len(models) > MOST_CURVES else "",
    )  # fmt: skip


def model_html(model: Mapping[str, Any], points: Points) -> str:
    """Return the page of a model: hyperparameters, scores, learning curve."""
    selected = ", selected by its job" if model.get("is_selected") else ""
    ended = f"; {model['end_reason']}" if model.get("end_reason") else ""
    return block(
        heading("Model", f"number {model['number']}", model["id"], model.get("state", "")),
        line(f"{model['epochs_trained']} epochs{selected}{ended}"),
        _losses_svg(points),
        table(*_scores(model)),
        table(("hyperparameter", ""), model.get("hyperparameters", {}).items()),
        table(("architecture", ""), model.get("architecture", {}).items()),
    )


def _scores(document: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """Return the header and the rows of the table of scores, with the scores of simple predictors beside them."""
    baselines = document.get("baselines") or {}
    names = list(dict.fromkeys(name for of_score in baselines.values() for name in of_score))
    return ("score", "" if not names else "model", *names), [
        (score, value, *(baselines.get(score, {}).get(name) for name in names))
        for score, value in document.get("scores", {}).items()
    ]


def inference_html(inference: Mapping[str, Any]) -> str:
    """Return the page of an inference: its model and its data set."""
    error = inference.get("error") or {}
    return block(
        heading("Inference", "", inference["id"], inference.get("state", "")),
        line(f"model {inference.get('model_id')} on data set {inference.get('dataset_id')}"),
        notes([error["message"]] if error.get("message") else [], "Failed:", "#b83232"),
    )


def curve_html(points: Points) -> str:
    """Return the page of a learning curve."""
    return block(line(f"Learning curve of {len(points)} epochs"), _losses_svg(points))


def array_html(array: Mapping[str, Any], coords: Mapping[str, str]) -> str:
    """Return the page of an array: its description, dims and units, and the names of coordinates with their dims."""
    rows = [
        (dim, size, ", ".join(name for name, along in coords.items() if along == dim))
        for dim, size in zip(array["dims"], array["shape"], strict=True)
    ]
    return block(
        heading("Array", array["name"], array["dtype"]),
        line(array["description"]),
        line(f"Values are in {array['units']}." if array["units"] else ""),
        table(("dim", "length", "coordinates"), rows),
    )


def arrays_html(documents: Sequence[ArrayDocument]) -> str:
    """Return the page of the arrays of one resource."""
    rows = [
        (one["name"], axes_in_words(one), one["dtype"], one["units"], one["description"]) for one in documents
    ]
    return block(table(("array", "dims", "type", "units", ""), rows))


def _losses_svg(points: Points) -> Html:
    curves = {
        "SV loss": [(point["epoch"], point["sv_loss"]) for point in points],
        "validation loss": [(point["epoch"], point["validation_loss"]) for point in points],
        "training loss": [(point["epoch"], point["train_loss"]) for point in points],
    }
    return curves_svg(curves, "loss (nats per sample)", "SV loss")


def _progress_in_words(progress: Mapping[str, Any]) -> str:
    if not progress:
        return ""
    text = f"{progress['epochs_trained']} of {progress['epochs_budget']} epochs, {progress['models']} models"
    if (loss := progress.get("best_smoothed_sv_loss")) is not None:
        text += f", lowest smoothed SV loss {loss:.4f}"
    if (bits := progress.get("best_sv_bits_per_spike_valid")) is not None:
        text += f" ({bits:.3f} bits per spike)"
    if (left := left_in_words(progress.get("seconds_left"))) is not None:
        text += f", {left}"
    if waits := progress.get("waits_for"):
        text += f"; waits for: {waits}"
    return text


def _with_hint(problem: Mapping[str, Any]) -> str:
    hint = problem.get("hint")
    return f"{problem.get('message', '')}{f' ({hint})' if hint else ''}"
