"""The benchmark of the page, on a service without data."""

import json

import pytest
from playwright.sync_api import Browser

from benchmarks import page
from tests.web.test_views import Service
from tests.web.views import VIEWS


@pytest.mark.slow
def test_every_figure_is_measured(
    browser: Browser, seeded_service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    monkeypatch.setattr(page, "_SETTLE_MS", 0)
    empty = [view for view in VIEWS if view.name == "home-empty"]
    service = seeded_service("empty")
    rows = page.measure(browser, {"empty": (service.url, service.ids)}, empty, repeats=1)
    [row] = rows
    assert 0 < row["first_paint_ms"] <= row["interactive_ms"] + 50
    assert 10_000 < row["bytes"] < 300_000
    assert row["bytes_of_plotly"] == 0, "the first view needs no plot"
    assert row["plots_ms"] is None
    page.show(rows, "1", as_json=True)
    assert json.loads(capsys.readouterr().out)["view"] == "home-empty"
    page.show(rows, "1", as_json=False)
    assert "| home-empty |" in capsys.readouterr().out
