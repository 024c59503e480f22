"""Pictures of analyses."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from api.analyses.decoding import Decoding
from api.analyses.schemas import DecodingDocument, DistancesDocument
from api.computing.drawing import COLOURS, FAINT, INK, drawing, new_figure, printable, saved, style_axis
from api.computing.picture_types import PictureKind

MOST_LABELS, MOST_NUMBERS = 40, 12
MOST_TRIALS, MOST_COMPONENTS = 5, 4


def draw_distances(document: DistancesDocument, kind: PictureKind) -> bytes:
    """Draw distances between conditions as a heat map, 800 × 700 as PNG."""
    with drawing():
        figure = new_figure(8.0, 7.0)
        axis = figure.add_axes((0.16, 0.16, 0.68, 0.7))
        distances = np.array(document.distances, np.float64)
        shown = axis.imshow(distances, cmap="viridis", interpolation="nearest", aspect="equal")
        labels = [_word(one.value) for one in document.conditions]
        step = -(-len(labels) // MOST_LABELS)
        places = np.arange(0, len(labels), step)
        size = 9 if len(labels) <= 16 else 6.5
        axis.set_xticks(
            places, labels[::step], rotation=90 if len(labels) > 8 else 0, fontsize=size, parse_math=False
        )
        axis.set_yticks(places, labels[::step], fontsize=size, parse_math=False)
        axis.tick_params(length=0, labelcolor=INK)
        axis.spines[:].set_visible(False)
        axis.set_xlabel(printable(document.by), color=FAINT, parse_math=False)
        if len(labels) <= MOST_NUMBERS:
            _write_numbers(axis, distances)
        bar = figure.colorbar(shown, ax=axis, fraction=0.046, pad=0.03)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=8, labelcolor=FAINT, length=0)
        unit = f" ({document.units})" if document.units else ""
        bar.set_label(f"{document.metric} distance{unit}", color=FAINT, fontsize=9)
        trials = sum(one.trials for one in document.conditions)
        facts = [f"{len(labels)} conditions", f"{trials:,} trials", f"{document.bins:,} bins"]
        facts += ["unbiased"] if document.unbiased else []
        _heading(figure, f"Distances of mean {document.array}", facts)
        return saved(figure, kind)


def _write_numbers(axis: Axes, distances: NDArray[np.float64]) -> None:
    low, high = np.nanmin(distances), np.nanmax(distances)
    for (row, column), value in np.ndenumerate(distances):
        if np.isfinite(value):
            is_dark = value < (low + high) / 2
            colour = "white" if is_dark else INK
            axis.text(column, row, f"{value:.2g}", ha="center", va="center", fontsize=8, color=colour)


def draw_decoding(document: DecodingDocument, decoding: Decoding, kind: PictureKind) -> bytes:
    """Draw true and decoded behaviour of a few trials that were held out, a row for each component."""
    rows, decoded = _some_predictions(decoding)
    trials = decoding.latents.trials[decoding.tested_rows[rows]]
    components = min(decoding.behaviour.components, MOST_COMPONENTS)
    time_s = decoding.behaviour.time_s
    assert time_s is not None
    with drawing():
        figure = new_figure(12.0, 1.6 + 1.7 * components)
        top = 1 - 0.95 / figure.get_figheight()
        grid = figure.add_gridspec(
            components, len(rows), left=0.07, right=0.985, top=top, bottom=0.55 / figure.get_figheight(),
            wspace=0.08, hspace=0.15,
        )  # fmt: skip
        for component in range(components):
            first: Axes | None = None
            for place, trial in enumerate(trials):
                axis = figure.add_subplot(grid[component, place], sharey=first)
                first = first or axis
                true = decoding.kept.of(int(trial))
                if true is not None:
                    axis.plot(time_s, true[:, component], color=INK, linewidth=1.4, label="true")
                axis.plot(
                    time_s, decoded[place, :, component], color=COLOURS[1], linewidth=1.8, label="decoded"
                )
                style_axis(axis)
                axis.xaxis.set_major_locator(MaxNLocator(4))
                axis.yaxis.set_major_locator(MaxNLocator(4))
                axis.set_xlim(time_s[0], time_s[-1])
                axis.tick_params(labelleft=place == 0, labelbottom=component == components - 1)
                if component == 0:
                    axis.set_title(f"trial {trial}", loc="left", fontsize=9, color=INK)
                if component == components - 1:
                    axis.set_xlabel("time (s)", fontsize=9, color=FAINT)
            if first is not None:
                r2 = document.r2_of_components[component]
                told = "" if r2 is None else f"\nR² {r2:.3f}"
                first.set_ylabel(f"component {component}{told}", fontsize=9, color=FAINT)
                if component == 0:
                    first.legend(fontsize=8, frameon=False, loc="best", labelcolor=INK)
        facts = [
            "constant, so there is no R²" if document.r2 is None else f"mean R² {document.r2:.3f}",
            f"{document.tested.trials:,} trials held out",
            f"lag {document.lag_s:g} s",
        ]
        _heading(figure, f"{document.behaviour}, decoded from {document.array}", facts)
        return saved(figure, kind)


def _some_predictions(decoding: Decoding) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return some of the tested trials, evenly chosen, and their decoded behaviour."""
    number = len(decoding.tested_rows)
    chosen = np.unique(np.linspace(0, number - 1, min(number, MOST_TRIALS)).astype(np.int64))
    bins, components = decoding.behaviour.bins, decoding.behaviour.components
    found, row = [], 0
    for block in decoding.predictions().blocks():
        mine = chosen[(chosen >= row) & (chosen < row + len(block))] - row
        found.append(block.reshape(len(block), bins, components)[mine])
        row += len(block)
    return chosen, np.concatenate(found).astype(np.float64)


def _heading(figure: Figure, title: str, facts: list[str]) -> None:
    height = figure.get_figheight()
    # A `$` in a name is a dollar sign: do not let matplotlib parse it as mathematics.
    figure.text(
        0.02, 1 - 0.27 / height, printable(title, 80), fontsize=14, fontweight="bold", color=INK, va="center",
        parse_math=False,
    )  # fmt: skip
    figure.text(0.02, 1 - 0.54 / height, "   ·   ".join(facts), fontsize=9.5, color=FAINT, va="center")


def _word(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value), 18)
