"""Print the report of a data set for people."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from latentry.commands.calling import Document
from latentry.formatting import pairs_table, time_in_words, value_in_words

if TYPE_CHECKING:
    from rich.console import Console

_FIGURES = {
    "format": "format",
    "time_zero_s": "time zero (s)",
    "duration_s": "recorded (s)",
    "total_spikes": "spikes",
    "mean_rate_hz": "mean rate (spikes/s)",
    "max_count_per_bin": "most in a bin",
    "padding_fraction": "padding",
    "missing_fraction": "not observed",
    "conditions": "conditions are",
    "split": "split of trials",
    "has_true_rates": "true rates",
    "external_inputs": "known inputs",
}
"""Fields of the report that are shown as they are, with their names for people."""
_GROUPS = {
    "silent_neurons": "silent neurons",
    "empty_trials": "empty trials",
    "duplicate_neurons": "doubled neurons",
    "correlated_neurons": "neurons that share spikes",
    "duplicate_trials": "doubled trials",
}
_MOST_NAMED = 12


def summary(dataset: Document) -> str:
    """Return a data set in one line."""
    if dataset["state"] != "ready":
        return f"{dataset['id']} is {dataset['state']}"
    size = f"{dataset['trials']} trials × {dataset['bins']} bins × {dataset['neurons']} neurons"
    width = f"{dataset['bin_width_s'] * 1000:g} ms"
    return f"{dataset['id']} is ready: {size}, bins of {width}"


def print_page(dataset: Document, page: "Console") -> None:
    """Print a data set and its report; problems come last, where the reader sees them first."""
    page.print(f"[bold]{_plain(dataset['name']) or 'A data set'}[/bold]")
    page.print(summary(dataset), highlight=False, markup=False)
    page.print(pairs_table(_origin(dataset)))
    report = dataset.get("report") or {}
    page.print(pairs_table(_figures(report)))
    for title, kind in (("Trial metadata", "trial_metadata"), ("Neuron metadata", "neuron_metadata")):
        if report.get(kind):
            page.print(f"\n[bold]{title}[/bold]")
            page.print(pairs_table((name, _metadata(one)) for name, one in report[kind].items()))
    if report.get("understood"):
        page.print("\n[bold]What the variables were taken for[/bold]")
        page.print(pairs_table((one["variable"], _understood(one)) for one in report["understood"]))
    for note in report.get("notes", []):
        page.print(f"• {note}", highlight=False, markup=False)
    _print_problems(page, "Warnings", "yellow", report.get("warnings") or [])
    _print_problems(page, "Rejected", "red", dataset.get("problems") or [])


def _origin(dataset: Document) -> Iterator[tuple[str, Any]]:
    source = dataset["source"]
    yield "created", time_in_words(dataset["created_at"])
    yield "made by", (dataset.get("created_by") or {}).get("name")
    yield "notes", dataset.get("notes") or None
    yield "tags", ", ".join(dataset.get("tags") or ()) or None
    yield "file", source.get("filename")
    yield "system", source.get("system")
    yield "derived from", dataset.get("derived_from")
    yield "options", dataset.get("options") or None


def _figures(report: Document) -> Iterator[tuple[str, Any]]:
    for name, words in _FIGURES.items():
        if report.get(name) not in (None, 0, False):
            yield words, report[name]
    if lengths := report.get("trial_length_bins"):
        yield (
            "bins of a trial",
            lengths["median"] if not lengths["ragged"] else f"{lengths['min']} … {lengths['max']}",
        )
    if report.get("behaviour"):
        yield "behaviour", report["behaviour"]
    for name, words in _GROUPS.items():
        if found := report.get(name):
            more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
            yield words, f"{len(found)}: {value_in_words(found[:_MOST_NAMED])}{more}"
    for session in report.get("sessions", []):
        yield "session", session


def _metadata(one: Document) -> str:
    missing = f", {one['missing']} missing" if one["missing"] else ""
    text = f"{one['kind']}, {one['distinct']} distinct{missing}: "
    if "values" not in one:
        return text + f"{one['min']:.4g} … {one['max']:.4g}, median {one['median']:.4g}"
    values = [value_in_words(item["value"]) for item in one["values"][:_MOST_NAMED]]
    return text + ", ".join(values) + (", …" if one["distinct"] > len(values) else "")


def _understood(one: Document) -> str:
    shape = " × ".join(str(size) for size in one["shape"])
    text = f"{one['what']}" + (f" ({shape})" if shape else "") + (f", {one['how']}" if one["how"] else "")
    others = one.get("alternatives") or []
    more = ", …" if len(others) > _MOST_NAMED else ""
    return text + (f"; not taken: {', '.join(others[:_MOST_NAMED])}{more}" if others else "")


def _print_problems(page: "Console", title: str, colour: str, problems: list[Document]) -> None:
    if problems:
        page.print(f"\n[bold {colour}]{title}[/bold {colour}]")
    for problem in problems:
        page.print(f"• {problem['message']}", highlight=False, markup=False)
        if problem.get("hint"):
            page.print(f"  {problem['hint']}", style="dim", highlight=False, markup=False)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
