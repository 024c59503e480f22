"""Draw the preview of a data set."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from api.computing.drawing import (
    COLOURS,
    FAINT,
    INK,
    drawing,
    new_figure,
    printable,
    saved,
    style_axis,
)
from api.computing.picture_types import PictureKind

WIDTH_INCHES, HEIGHT_INCHES = 12.0, 8.0
PADDING, ACCENT = "#f1f3f5", "#c92a2a"
LEFT, MIDDLE, RIGHT = 0.05, 0.505, 0.985
"""Edges of the columns, as fractions of the width."""
LEAST_TRIALS = 0.2
"""Mean rates are drawn only in bins that at least this fraction of a condition's trials have."""
STEPS = (1, 2, 2.5, 5, 10)
"""Steps between ticks."""
MOST_TITLE = 90
LONG_SESSION_S = 600.0


def draw_preview(document: dict[str, Any], name: str, kind: PictureKind) -> bytes:
    """Draw a preview.

    Parameters
    ----------
    document
        The preview that the ingest stored.
    name
        Name of the data set.
    kind
        Format of the picture.

    Returns
    -------
    bytes
        The picture, 1200 × 800 as PNG.
    """
    with drawing():
        figure = new_figure(WIDTH_INCHES, HEIGHT_INCHES)
        _heading(figure, document, name)
        _rasters(figure, document)
        _psths(figure, document)
        _session(figure.add_axes((LEFT, 0.075, 0.575, 0.15)), document["session"])
        _histogram(figure.add_axes((0.7, 0.075, RIGHT - 0.7, 0.15)), document["rates"])
        return saved(figure, kind)


def _heading(figure: Figure, document: dict[str, Any], name: str) -> None:
    # A `$` in a name is a dollar sign: do not let matplotlib parse it as mathematics.
    title = printable(name, MOST_TITLE)
    figure.text(0.013, 0.965, title, fontsize=15, fontweight="bold", color=INK, va="center", parse_math=False)
    facts = [
        f"{document['trials']:,} trials",
        f"{document['bins']:,} bins of {document['bin_width_s'] * 1000:g} ms",
        f"{document['neurons']:,} neurons",
    ]
    if document["trials_looked_at"] < document["trials"]:
        facts.append(f"means over {document['trials_looked_at']:,} evenly spaced trials")
    figure.text(0.013, 0.93, "   ·   ".join(facts), fontsize=10, color=FAINT, va="center")


def _rasters(figure: Figure, document: dict[str, Any]) -> None:
    raster, trials = document["raster"], document["raster"]["trials"]
    grid = figure.add_gridspec(
        len(trials), 1, left=LEFT, right=MIDDLE - 0.065, bottom=0.345, top=0.857, hspace=0.27
    )
    axes = [figure.add_subplot(grid[place, 0]) for place in range(len(trials))]
    for axis, trial in zip(axes, trials, strict=True):
        _raster(axis, trial, document)
        axis.tick_params(labelbottom=axis is axes[-1])
    axes[-1].set_xlabel("time in trial (s)", fontsize=9, color=FAINT)
    number = len(raster["neurons"])
    some = f"{number} neurons, " if number < document["neurons"] else ""
    _caption(figure, LEFT, 0.89, f"Spikes of single trials ({some}highest rate on top)")


def _raster(axis: Axes, trial: dict[str, Any], document: dict[str, Any]) -> None:
    width_s, zero_s, bins_shown = document["bin_width_s"], document["time_zero_s"], document["raster"]["bins"]
    end_s = zero_s + bins_shown * width_s
    rows = len(trial["spikes"])
    neuron = np.repeat(np.arange(rows), [len(bins) for bins in trial["spikes"]])
    bins = np.concatenate([np.asarray(one, np.int64) for one in trial["spikes"]])
    points_per_bin = WIDTH_INCHES * 72 * (MIDDLE - 0.065 - LEFT) / bins_shown
    axis.vlines(
        zero_s + (bins + 0.5) * width_s,
        neuron - 0.1,
        neuron + 1.1,
        colors=INK,
        linewidths=min(3.5, max(1.0, 0.45 * points_per_bin)),
        alpha=0.8,
    )
    stop_s = zero_s + min(trial["length_bins"], bins_shown) * width_s
    if stop_s < end_s:
        axis.axvspan(stop_s, end_s, color=PADDING, zorder=0, linewidth=0)
    for first, last in trial.get("unobserved", []):
        axis.axvspan(zero_s + first * width_s, zero_s + last * width_s, color=PADDING, zorder=0, linewidth=0)
    axis.set_xlim(zero_s, end_s)
    axis.set_ylim(rows + 0.3, -0.3)
    style_axis(axis, grid=False)
    axis.set_yticks([])
    axis.xaxis.set_major_locator(MaxNLocator(6, steps=STEPS))
    _mark_zero(axis, zero_s, end_s)
    condition, psth = trial["condition"], document["psth"]
    parts = [f"trial {trial['trial']}"]
    if trial["start_s"] is not None:
        parts.append(f"at {_duration(trial['start_s'])}")
    if condition is not None:
        parts.append(f"{printable(psth['by'] or '', 20)} {_word(condition)}")
    colours = {_word(one["value"]): colour for one, colour in zip(psth["conditions"], COLOURS, strict=False)}
    colour = INK if condition is None else colours.get(_word(condition), INK)
    axis.set_title("   ·   ".join(parts), loc="left", fontsize=9, color=colour, pad=3, parse_math=False)


def _psths(figure: Figure, document: dict[str, Any]) -> None:
    psth = document["psth"]
    by_condition = psth["by"] is not None
    population = figure.add_axes((MIDDLE, 0.655, (0.305 if by_condition else RIGHT - MIDDLE), 0.202))
    _rates(population, psth, psth["population"])
    _title(population, f"population, mean of {document['neurons']:,} neurons")
    population.set_ylabel("spikes/s", fontsize=9, color=FAINT)
    columns, neurons = 3, psth["neurons"]
    grid = figure.add_gridspec(
        max(1, -(-len(neurons) // columns)),
        columns,
        left=MIDDLE,
        right=RIGHT,
        bottom=0.345,
        top=0.578,
        wspace=0.24,
        hspace=0.5,
    )
    for place, neuron in enumerate(neurons):
        axis = figure.add_subplot(grid[place // columns, place % columns])
        _rates(axis, psth, neuron)
        axis.set_ylim(bottom=0)
        _title(axis, f"neuron {neuron['neuron']}")
        is_lowest = place + columns >= len(neurons)
        axis.tick_params(labelbottom=is_lowest)
        if place % columns == 0:
            axis.set_ylabel("spikes/s", fontsize=9, color=FAINT)
        if is_lowest:
            axis.set_xlabel("time in trial (s)", fontsize=9, color=FAINT)
    if by_condition:
        _legend(figure, psth)
    which = "Mean rates by condition" if by_condition else "Mean rates of all trials"
    width = f"{psth['bin_width_s'] * 1000:g} ms"
    _caption(figure, MIDDLE, 0.89, f"{which} ± standard error, in bins of {width}")


def _rates(axis: Axes, psth: dict[str, Any], rates: dict[str, Any]) -> None:
    """Draw mean rates with their standard errors, without bins that few trials have."""
    first_s, width_s = psth["time_s"][0], psth["bin_width_s"]
    time_s = np.asarray(psth["time_s"]) + width_s / 2
    trials = np.asarray(psth["trials_per_bin"])
    is_shown = trials >= np.maximum(min(2, trials.max()), LEAST_TRIALS * trials.max(axis=1, keepdims=True))
    for place, colour in zip(range(len(trials)), COLOURS, strict=False):
        mean = np.where(is_shown[place], np.array(rates["mean_hz"][place], dtype=np.float64), np.nan)
        error = np.nan_to_num(np.array(rates["sem_hz"][place], dtype=np.float64))
        axis.fill_between(time_s, mean - error, mean + error, color=colour, alpha=0.16, linewidth=0)
        axis.plot(time_s, mean, color=colour, linewidth=1.5, solid_capstyle="round")
    last_s = float(time_s[is_shown.any(axis=0).nonzero()[0].max(initial=0)]) + width_s / 2
    axis.set_xlim(first_s, last_s)
    style_axis(axis)
    axis.yaxis.set_major_locator(MaxNLocator(4, steps=STEPS))
    axis.xaxis.set_major_locator(MaxNLocator(4, steps=STEPS))
    _mark_zero(axis, first_s, last_s)


def _legend(figure: Figure, psth: dict[str, Any]) -> None:
    lines = [
        Line2D([], [], color=colour, linewidth=2.5)
        for _, colour in zip(psth["conditions"], COLOURS, strict=False)
    ]
    texts = [f"{_word(one['value'])}  ({one['trials']})" for one in psth["conditions"]]
    left_out = psth["conditions_in_all"] - len(psth["conditions"])
    if left_out:
        lines.append(Line2D([], [], linewidth=0))
        texts.append(f"{left_out} more, not shown")
    legend = figure.legend(
        lines,
        texts,
        title=printable(psth["by"], 22) + "  (trials)",
        loc="upper left",
        bbox_to_anchor=(MIDDLE + 0.32, 0.872),
        fontsize=8.5,
        title_fontsize=8.5,
        alignment="left",
        frameon=False,
        labelspacing=0.35,
        handlelength=1.3,
    )
    for text in [*legend.get_texts(), legend.get_title()]:
        text.set_parse_math(False)
        text.set_color(INK)


def _session(axis: Axes, session: dict[str, Any]) -> None:
    at, unit = np.asarray(session["at"], np.float64), "trial"
    if session["unit"] == "s":
        is_long = float(np.ptp(at)) > LONG_SESSION_S
        at, unit = (at / 60, "time in the session (min)") if is_long else (at, "time in the session (s)")
    rate_hz = np.array(session["rate_hz"], dtype=np.float64)
    axis.plot(
        at, rate_hz, ".", color=COLOURS[0], markersize=4 if len(at) > 60 else 7, alpha=0.45, markeredgewidth=0
    )
    window = max(1, len(rate_hz) // 12)
    if len(rate_hz) >= 24:
        axis.plot(at, _smoothed(rate_hz, window), color=ACCENT, linewidth=1.8)
    axis.set_ylim(0, float(np.nanmax(rate_hz)) * 1.08)
    axis.margins(x=0.01)
    style_axis(axis)
    axis.set_xlabel(unit, fontsize=9, color=FAINT)
    axis.set_ylabel("spikes/s", fontsize=9, color=FAINT)
    axis.set_title(
        "Population rate over the session", loc="left", fontsize=10.5, fontweight="bold", color=INK, pad=5
    )


def _smoothed(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Return the running mean. The window is shorter at both ends."""
    known = np.isfinite(values)
    ones = np.ones(window)
    total = np.convolve(np.where(known, values, 0.0), ones, "same")
    return np.asarray(total / np.maximum(np.convolve(known, ones, "same"), 1e-9))


def _histogram(axis: Axes, rates: dict[str, Any]) -> None:
    edges_hz = np.asarray(rates["edges_hz"], np.float64)
    axis.stairs(rates["neurons"], edges_hz, fill=True, color=COLOURS[0], alpha=0.85)
    axis.set_xscale("log")
    is_narrow = edges_hz[-1] < 50 * edges_hz[0]
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if is_narrow else (1.0,)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda rate_hz, _: f"{rate_hz:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    style_axis(axis)
    axis.set_xlabel("mean rate (spikes/s)", fontsize=9, color=FAINT)
    axis.set_ylabel("neurons", fontsize=9, color=FAINT)
    silent = f"   ({rates['silent']:,} silent)" if rates["silent"] else ""
    axis.set_title(
        "Rates of neurons" + silent, loc="left", fontsize=10.5, fontweight="bold", color=INK, pad=5
    )


def _caption(figure: Figure, left: float, bottom: float, text: str) -> None:
    figure.text(left, bottom, text, fontsize=10.5, fontweight="bold", color=INK)


def _title(axis: Axes, text: str) -> None:
    axis.set_title(text, loc="left", fontsize=9, color=INK, pad=3)


def _mark_zero(axis: Axes, first_s: float, last_s: float) -> None:
    if first_s < 0 < last_s:
        axis.axvline(0, color=ACCENT, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)


def _word(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else printable(str(value), 18)


def _duration(time_s: float) -> str:
    return f"{time_s / 60:.1f} min" if abs(time_s) > LONG_SESSION_S else f"{time_s:.1f} s"
