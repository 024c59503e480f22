"""Print jobs for people."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from latentry.commands.calling import Document
from latentry.formatting import (
    bytes_in_words,
    left_in_words,
    number,
    pairs_table,
    rows_table,
    seconds_in_words,
    time_in_words,
    value_in_words,
)

if TYPE_CHECKING:
    from rich.console import Console

_CHANCE = 0.05
"""Largest p-value, corrected for the number of dimensions, with which the best part of a dimension is named."""


def print_job(job: Document, page: "Console") -> None:
    """Print a job with its warnings."""
    page.print(pairs_table(_job(job)))
    diagnostics = job.get("diagnostics") or {}
    for title, colour, text in (
        ("Error", "red", (job.get("error") or {}).get("message")),
        ("Waits for", "yellow", job["progress"].get("waits_for")),
        *(("Warning", "yellow", warning) for warning in job.get("warnings", [])),
        ("Warning", "yellow", diagnostics.get("warning")),
        ("Note", "dim", diagnostics.get("note")),
    ):
        if text:
            page.print(f"[bold {colour}]{title}:[/bold {colour}] ", end="")
            page.print(text, highlight=False, markup=False)


def _job(job: Document) -> Iterator[tuple[str, Any]]:
    progress, specification = job["progress"], job["specification"]
    yield "job", job["id"]
    yield "name", job["name"] or None
    yield "notes", job["notes"] or None
    yield "tags", ", ".join(job["tags"]) or None
    yield "made by", (job["created_by"] or {}).get("name")
    yield "state", job["state"]
    yield "data set", f"{job['dataset_id']} ({job['dataset_name']})"
    yield "preset", specification["preset"]
    yield "strategy", specification["strategy"]["kind"]
    yield "models", f"{progress['models_ended']} of {progress['models']} have ended"
    yield "epochs", f"{progress['epochs_trained']} of {progress['epochs_budget']} over all models"
    yield "lowest smoothed SV loss", progress["best_smoothed_sv_loss"]
    yield "bits per spike", progress["best_sv_bits_per_spike_valid"]
    yield "selected model", job.get("selected_model_id")
    for one in (job.get("diagnostics") or {}).get("baselines", []):
        error = one["standard_error"]
        yield (
            f"{one['score']}, against {one['baseline']}",
            f"{one['difference']:+.3g}" + (f" ± {error:.2g}" if error is not None else ""),
        )
    yield "final model", job.get("final_model_id")
    yield "begun", time_in_words(job["started_at"]) if job.get("started_at") else None
    yield (
        "time",
        seconds_in_words(progress["seconds_elapsed"]) if progress["seconds_elapsed"] is not None else None,
    )
    yield "left", left_in_words(progress["seconds_left"])
    versions = (value_in_words(one) for one in job.get("trained_with", []))
    yield "trained with", "; ".join(versions) or None
    yield "precision", job.get("precision")
    yield "scored on", job["scored_on"]
    yield "ended", time_in_words(job["ended_at"]) if job.get("ended_at") else None


def not_comparable(jobs: Iterable[Document]) -> Iterator[str]:
    """Yield a line for each data set with jobs that have a loss and were scored on different samples."""
    scored: dict[tuple[str, str], dict[str, list[str]]] = {}
    for job in jobs:
        if job["progress"]["best_smoothed_sv_loss"] is not None:
            of_dataset = scored.setdefault((job["dataset_id"], job["dataset_name"]), {})
            of_dataset.setdefault(job["scored_on"], []).append(job["id"])
    for (_, name), groups in scored.items():
        if len(groups) > 1:
            listed = "; ".join(f"{', '.join(ids)} ({samples})" for samples, ids in groups.items())
            yield (
                f"SV losses of jobs scored on different samples cannot be compared. Jobs on {name} by what they are scored on: "
                f"{listed}"
            )


def print_preview(preview: Document, page: "Console") -> None:
    """Print what a search would do, and what it would need."""
    basis = (
        "from the pace of the last trainings"
        if preview["seconds_basis"] == "measured"
        else "from a short measurement of each worker: this service has not trained anything yet"
    )
    chosen = preview["specification"]
    page.print(
        pairs_table(
            {
                "models": preview["models"],
                "epochs": f"{preview['epochs']} over all models, at most",
                "trials": f"{preview['training_trials']} for training, {preview['validation_trials']} for validation, "
                f"{preview['test_trials']} for testing",
                "training": f"batches of {chosen['training']['batch_size']} trials, {preview['steps_per_epoch']} steps an epoch, "
                f"{chosen['budget']['epochs']} epochs a model at most",
                "time": f"{seconds_in_words(preview['seconds'])} with {_counted(preview['workers'], 'worker')} ({basis})",
                "time of devices": seconds_in_words(preview["device_seconds"]),
                "memory of a step": f"{bytes_in_words(preview['step_memory_bytes'])} for each model",
                "kept": bytes_in_words(preview["kept_bytes"]),
                "latents": bytes_in_words(preview["latents_bytes"]),
            }.items()
        )
    )
    for warning in preview["warnings"]:
        page.print("[bold yellow]Warning:[/bold yellow] ", end="")
        page.print(warning, highlight=False, markup=False)


def event_line(event: Document) -> str:
    """Return an event on one line."""
    data = event["data"]
    if event["kind"] == "progress":
        text = ", ".join(
            f"model {one['number']} epoch {one['epoch']} SV loss {number(one['sv_loss'])}"
            for one in data["models"]
        )
    else:
        text = value_in_words(data)
    return f"{event['id']:>6}  {event['created_at'][:19].replace('T', ' ')}  {event['kind']:<15} {text}"


def print_importance(found: Document, page: "Console") -> None:
    """Print hyperparameters, the most important first: the median along each, and where it is lowest if that is significant."""
    from latentry.display import sparkline

    is_population = found["measure"] == "place_in_generation"

    def lowest_at(dimension: Document) -> str:
        # The more dimensions there are, the more of them differ by chance.
        if (dimension["p_value"] or 1.0) * len(found["dimensions"]) > _CHANCE:
            return "–"
        known = [one for one in dimension["marginals"] if one["median"] is not None]
        part = min(known, key=lambda one: one["median"])
        ends = [end if isinstance(end, str) else f"{end:.3g}" for end in (part["low"], part["high"])]
        return " … ".join(dict.fromkeys(ends))

    rows = (
        (
            one["name"],
            "–" if one["importance"] is None else f"{one['importance']:.0%}",
            number(one["p_value"]),
            sparkline([part["median"] for part in one["marginals"] if part["median"] is not None]),
            *(() if is_population else (lowest_at(one),)),
        )
        for one in found["dimensions"]
    )
    along = "place in generation" if is_population else "SV loss"
    columns = ("hyperparameter", ">importance", ">p-value", f"median {along}, low to high")
    page.print(rows_table(columns if is_population else (*columns, "lowest at"), rows))
    what = "segments of a population" if is_population else "models with a loss"
    page.print(f"Over {found['observations']} {what}.", highlight=False)
    if found["note"]:
        page.print(found["note"], highlight=False, markup=False)


def print_lineage(found: Document, page: "Console") -> None:
    """Print from which models the weights of a model come, epoch by epoch."""
    selected = ", the selected one" if found["is_selected"] else ""
    loss = number(found["smoothed_sv_loss"])
    page.print(
        f"Model {found['model_number']}{selected}: {found['epochs']} epochs, SV loss {loss}", highlight=False
    )
    rows = (
        (
            f"{one['from_epoch']} … {one['to_epoch']}", str(one["model_number"]),
            f"epoch {found['best_epoch']}" if one["has_best_epoch"] else "", one["reason"],
            ", ".join(
                f"{name} {value_in_words(before)} → {value_in_words(after)}"
                for name, (before, after) in one["changes"].items()
            ),
        )
        for one in found["segments"]
    )  # fmt: skip
    page.print(rows_table((">epochs", ">model", "kept weights", "how it began", "what changed"), rows))


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
