"""What the terminal shows of a job, and what the command line says when something is wrong."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from latentry import Client, LatentryError
from latentry.commands.jobs import follow
from latentry.display import JobDisplay, chart, sparkline
from rich.console import Console

from tests.servers import free_port


def progress(*points: tuple[int, int, float | None]) -> dict[str, Any]:
    models = [
        {
            "number": number,
            "epoch": epoch,
            "sv_loss": loss,
            "validation_loss": loss,
            "best_smoothed_sv_loss": loss,
        }
        for number, epoch, loss in points
    ]
    return {"kind": "progress", "data": {"models": models}}


def test_of_models_that_hold_the_same_weights_the_display_shows_the_one_that_trained_them_first() -> None:
    display = JobDisplay(epochs=10, models=2)
    event = progress((0, 3, 0.4), (1, 3, 0.4))
    for point in event["data"]["models"]:
        point["trained_by"] = 1
    display.take(event)
    assert display.best() == (1, 0.4)


def test_the_display_follows_the_events() -> None:
    display = JobDisplay(epochs=10, models=2)
    assert display.line() == "queued: 0 of 20 epochs"
    display.take({"kind": "job.state", "data": {"state": "running"}})
    display.take(progress((0, 3, 0.5), (1, 3, 0.4)))
    display.take(progress((0, 5, 0.3), (1, 5, None)))
    assert display.line() == "running: 10 of 20 epochs, lowest SV loss 0.3000 (model 0)"
    console = Console(record=True, width=100, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(display)
    shown = console.export_text()
    assert "5/10" in shown
    assert "50 %" in shown


def ended(number: int, state: str) -> dict[str, Any]:
    return {"kind": "model.state", "data": {"number": number, "state": state, "model_id": "mod"}}


def drawn(display: JobDisplay) -> str:
    console = Console(record=True, width=120, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(display)
    return console.export_text()


def test_models_that_are_given_up_leave_less_to_do() -> None:
    display = JobDisplay(epochs=90, models=3)
    display.take({"kind": "job.state", "data": {"state": "running"}})
    display.take({"kind": "model.state", "data": {"model_id": "mod", "state": "training"}})  # as claimed
    display.take(progress((0, 10, 0.5), (1, 10, 0.4), (2, 10, 0.3)))
    display.take(ended(0, "stopped"))
    display.take(ended(1, "stopped"))
    assert display.line() == "running: 30 of 110 epochs, lowest SV loss 0.3000 (model 2)"
    display.take(progress((2, 90, 0.2)))
    display.take(ended(2, "trained"))
    assert display.line() == "running: 110 of 110 epochs, lowest SV loss 0.2000 (model 2)"
    shown = drawn(display)
    assert "100 %" in shown
    assert shown.count("stopped early") == 2
    display.take({"kind": "job.extended", "data": {"budget": {"epochs": 100, "models": 4}}})
    display.take(progress((2, 95, 0.2)))  # taken up again
    assert display.line().startswith("running: 115 of 220 epochs")
    assert "trains" in drawn(display)


@pytest.mark.parametrize("state", ["paused", "stopping"])
def test_the_display_shows_the_state(state: str) -> None:
    display = JobDisplay(epochs=10, models=2)
    display.take(progress((0, 5, 0.5)))
    display.take({"kind": "job.state", "data": {"state": state}})
    assert display.line().startswith(f"{state}: 5 of {20 if state == 'paused' else 5} epochs")
    assert state in drawn(display)


class FinishedJob:
    """What `follow` asks of a client."""

    def __init__(self, diagnostics: dict[str, Any] | None) -> None:
        budget = {"epochs": 2, "models": 1}
        self._job = {
            "state": "done", "specification": {"budget": budget}, "diagnostics": diagnostics,
            "progress": {"seconds_left": 754.0},
        }  # fmt: skip

    def get_job(self, _job_id: str) -> dict[str, Any]:
        return self._job

    def events(self, _job_id: str) -> list[dict[str, Any]]:
        diagnostics = {"kind": "job.diagnostics", "data": self._job["diagnostics"] or {}}
        return [progress((0, 2, 0.5)), diagnostics, {"kind": "job.state", "data": {"state": "done"}}]


@pytest.mark.parametrize(
    ("diagnostics", "warns"),
    [({"warning": "1 of 4 models [number 2] leaks."}, True), ({"warning": None}, False), (None, False)],
)
def test_the_end_of_a_job_tells_what_its_diagnostics_warn_of(
    diagnostics: dict[str, Any] | None, warns: bool
) -> None:
    console = Console(record=True, width=100, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    follow(cast(Client, FinishedJob(diagnostics)), "job_1", console)
    shown = console.export_text()
    assert ("Warning: 1 of 4 models [number 2] leaks." in shown) == warns
    assert "done: 2 of 2 epochs" in shown
    assert (
        "queued: 2 of 2 epochs, lowest SV loss 0.5000 (model 0), about 12.5 min left" in shown
    )  # the service's estimate


def test_the_time_left_is_what_the_service_says() -> None:
    display = JobDisplay(epochs=10, models=2)
    assert display.is_due
    display.renew({"progress": {"seconds_left": 7321.0}})
    assert not display.is_due
    assert "about 2.03 h left" in drawn(display)
    display.take({"kind": "job.state", "data": {"state": "paused"}})
    assert display.is_due  # what was known of the time holds no more
    display.renew({"progress": {"seconds_left": None}})
    assert "left" not in drawn(display)


def test_bits_per_spike_stand_beside_the_losses() -> None:
    display = JobDisplay(epochs=10, models=2)
    event = progress((0, 3, 0.5), (1, 3, 0.4))
    event["data"]["models"][1]["sv_bits_per_spike_valid"] = 0.2345
    display.take(event)
    assert "bits/spike" in drawn(display)
    assert "0.234" in drawn(display)
    assert "bits per spike" not in display.line()
    display.renew({"progress": {"seconds_left": None, "best_sv_bits_per_spike_valid": 0.3456}})
    assert display.line() == "queued: 6 of 20 epochs, lowest SV loss 0.4000 (model 1), 0.346 bits per spike"


@given(st.lists(st.floats(-1e6, 1e6), max_size=200))
def test_a_sparkline_is_never_wider_than_asked(values: list[float]) -> None:
    line = sparkline(values, width=30)
    assert len(line) <= 30
    assert bool(line) == bool(values)


def test_a_sparkline_has_its_extremes() -> None:
    assert sparkline([0.0, 1.0, 0.5]) == "▁█▅"


def test_a_chart_has_its_extremes_at_its_edges() -> None:
    lines = chart([0.0, 1.0, 2.0, 3.0], width=10, height=4)
    assert len(lines) == 4
    assert lines[0].split() == ["3.0000", "█"]
    assert lines[-1].split() == ["0.0000", "▁"]
    assert chart([1.0, 1.0], 10, 2)[-1].split() == ["1.0000", "▁▁"]
    assert max(map(len, chart([float(n % 7) for n in range(1000)], 40, 3))) <= 51


def test_a_service_that_is_not_there_is_told() -> None:
    with (
        Client(f"http://127.0.0.1:{free_port()}") as client,
        pytest.raises(LatentryError, match="is the service running"),
    ):
        client.get("/healthz")


def test_the_command_line_prints_a_problem_and_no_traceback(tmp_path: Path) -> None:
    environment = {**os.environ, "LATENTRY_DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "latentry.main", "demo", "--url", f"http://127.0.0.1:{free_port()}"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 5
    assert "Error: nothing answers at http://127.0.0.1" in done.stderr
    assert "Traceback" not in done.stderr
