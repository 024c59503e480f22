"""What a notebook shows: whole HTML, nothing that runs, everything from outside escaped."""

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from latentry import Client
from latentry.labelled import LearningCurve
from latentry.notebook.drawing import curves_svg
from latentry.notebook.pages import (
    array_html,
    arrays_html,
    dataset_html,
    inference_html,
    job_html,
    model_html,
)

from tests.api.api_examples import Example

EVIL = "<script>alert(\"x\")</script><img src=x onerror='alert(1)'>"


class Tags(HTMLParser):
    """Tags and attributes of a text, and whether each is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found, self.attributes, self.open = set[str](), set[str](), list[str]()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag != "img":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def points(*losses: float | None) -> list[Any]:
    return [
        {"epoch": epoch, "sv_loss": loss, "validation_loss": loss, "train_loss": None}
        for epoch, loss in enumerate(losses, 1)
    ]


def evil_pages() -> dict[str, str]:
    warning = {"message": EVIL, "hint": EVIL}
    dataset = {
        "id": EVIL, "name": EVIL, "state": EVIL, "trials": 3, "bins": 4, "neurons": 5, "bin_width_s": 0.01,
        "report": {
            "warnings": [warning], "mean_rate_hz": 5.0,
            "understood": [{"what": EVIL, "variable": EVIL, "how": EVIL, "shape": [3], "alternatives": [EVIL]}],
        }, "problems": [warning],
    }  # fmt: skip
    model = {
        "id": EVIL, "number": 2, "state": EVIL, "epochs_trained": 4, "is_selected": True, "end_reason": EVIL,
        "scores": {EVIL: 1.0, "smoothed_sv_loss": None}, "hyperparameters": {EVIL: 0.1}, "architecture": {EVIL: EVIL},
    }  # fmt: skip
    job = {
        "id": EVIL, "name": EVIL, "state": EVIL, "error": {"message": EVIL}, "diagnostics": {"warning": EVIL},
        "progress": {
            "fraction": 0.4, "epochs_trained": 4, "epochs_budget": 10, "models": 3, "best_smoothed_sv_loss": 0.5,
            "best_sv_bits_per_spike_valid": 0.25, "seconds_left": 90.0, "waits_for": EVIL,
        },
    }  # fmt: skip
    about = {
        "name": EVIL, "dims": [EVIL], "shape": [3], "dtype": EVIL, "units": EVIL, "description": EVIL, "attributes": {},
        "coordinates": [], "href": "",
    }  # fmt: skip
    inference = {"id": EVIL, "state": EVIL, "model_id": EVIL, "dataset_id": EVIL, "error": {"message": EVIL}}
    return {
        "dataset": dataset_html(dataset, f"data:{EVIL}"),
        "job": job_html(job, [model] * 12, {2: points(2.0, 1.0)}),
        "model": model_html(model, points(2.0, None, 1.0)),
        "inference": inference_html(inference),
        "array": array_html(about, {EVIL: EVIL}),
        "arrays": arrays_html([about]),  # type: ignore[list-item]
        "curve": curves_svg({EVIL: [(1, 2.0), (2, 1.0)]}, EVIL, EVIL),
    }


def test_what_else_the_file_has_is_told() -> None:
    trials = {
        "what": "trials", "variable": "recognition", "how": "the likeliest", "shape": [9],
        "alternatives": ["encoding (5 trials)", "rest (2 trials)"],
    }  # fmt: skip
    spikes = {
        "what": "spike_times",
        "variable": "units",
        "how": "by its name",
        "shape": [9],
        "alternatives": [],
    }
    page = dataset_html({"id": "dat_1", "report": {"understood": [spikes, trials]}}, "")
    text = Tags(page).text
    assert "trials is recognition; not taken: encoding (5 trials), rest (2 trials)" in text
    assert "units" not in text


@pytest.mark.parametrize("kind", evil_pages())
def test_everything_from_outside_is_escaped(kind: str) -> None:
    page = evil_pages()[kind]
    tags = Tags(page)
    assert not tags.open
    assert "script" not in tags.found
    assert not {name for name in tags.attributes if name.startswith("on")}
    assert EVIL in tags.text, "it is told, as text"
    assert ("img" in tags.found) == (kind == "dataset")


def test_the_job_is_told_in_words() -> None:
    text = Tags(evil_pages()["job"]).text
    assert (
        "4 of 10 epochs, 3 models, lowest smoothed SV loss 0.5000 (0.250 bits per spike), about 90 s left"
        in text
    )
    assert "… and 2 more models" in text


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=5),
        st.lists(st.none() | st.floats(allow_nan=True, allow_infinity=True), max_size=8),
        max_size=4,
    )
)
def test_any_curves_are_drawn_inside_the_picture(curves: dict[str, list[float | None]]) -> None:
    svg = curves_svg({name: list(enumerate(losses)) for name, losses in curves.items()}, "loss")
    drawn = [
        name for name, losses in curves.items() if any(one is not None and abs(one) < 1e100 for one in losses)
    ]
    if not drawn:
        assert svg == ""
        return
    root = ET.fromstring(svg)
    lines = root.findall("{*}polyline")
    assert len(lines) == len(drawn)
    for line in lines:
        for point in line.attrib["points"].split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= float(root.attrib["width"])
            assert 0 <= y <= float(root.attrib["height"])


def test_a_long_curve_is_thinned_and_ends_where_it_ends() -> None:
    svg = curves_svg({"a": [(epoch, 1 / epoch) for epoch in range(1, 10_001)]}, "loss")
    found = re.search(r'points="([^"]+)"', svg)
    assert found is not None
    places = found[1].split()
    assert len(places) <= 300
    assert places[-1].startswith("440.0,")


def test_resources_show_themselves(example_url: str, example: Example) -> None:
    with Client(example_url) as client:
        model = client.get_model(example.model_id)
        dataset = client.get_dataset(example.dataset_id)
        shown = {
            "Model": model, "Job": model.job, "Data set": dataset, "Array": model.rates, "rates": model.arrays,
            "Learning curve": model.learning_curve,
        }  # fmt: skip
        for word, one in shown.items():
            page = one._repr_html_()
            assert word in Tags(page).text
            assert ("<svg" in page) == (word in ("Model", "Job", "Learning curve"))
    # Also when nothing can be asked.
    assert "20 trials × 5 bins of 20 ms × 4 neurons" in dataset._repr_html_()
    assert LearningCurve([])._repr_html_()
