"""Metrics: their table in the documentation, and sums over processes that live and have ended."""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, values
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from store import metrics
from store.settings import Settings

PAGE = Path(__file__).resolve().parents[2] / "docs/operating.md"


def of_code() -> list[MetricWrapperBase]:
    return [one for one in vars(metrics).values() if isinstance(one, MetricWrapperBase)]


def test_the_table_of_the_documentation_is_that_of_the_code() -> None:
    expected = set()
    for one in of_code():
        name = one._name + ("_total" if one._type == "counter" else "")
        labels = ", ".join(f"`{label}`" for label in one._labelnames)
        expected.add(f"| `{name}` | {one._type} | {labels} | {one._documentation} |")
    assert set(re.findall(r"^\| `latentry_.*$", PAGE.read_text(), re.MULTILINE)) == expected


def test_names_follow_prometheus_and_every_metric_has_a_label() -> None:
    for one in of_code():
        assert one._labelnames, f"{one._name}: without a label it opens a file in each process"
        assert re.fullmatch(r"latentry_[a-z_]+", one._name)
        assert not re.search(r"milli|micro|minutes|_kb|percent", one._name)
        if one._type == "histogram":
            assert one._name.endswith("_seconds")


@pytest.fixture
def as_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function that lets new metrics write as a process of some id."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))

    def become(pid: int) -> None:
        monkeypatch.setattr(values, "ValueClass", values.MultiProcessValue(lambda: pid))

    return become


def test_counters_of_ended_processes_stay_and_their_gauges_go(
    as_process: Callable[[int], None], tmp_path: Path
) -> None:
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    for pid in (os.getpid(), ended.pid):
        as_process(pid)
        own = CollectorRegistry()
        Counter("slices", "", ["kind"], registry=own).labels("train").inc(2)
        Gauge("memory", "", ["process"], registry=own, multiprocess_mode="livesum").labels("x").set(5)
    registry = CollectorRegistry()
    metrics.LivingProcesses(registry, str(tmp_path))
    text = generate_latest(registry).decode()
    found = {one.name: one.value for family in text_string_to_metric_families(text) for one in family.samples}
    assert found == {"slices_total": 4, "memory": 5}


def test_without_a_port_nothing_is_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    monkeypatch.setattr("threading.Thread", lambda **_: pytest.fail("a thread was started"))
    metrics.start("api", Settings(data_dir=tmp_path), serves=True)
    assert not metrics._process


def test_a_taken_port_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def take(*_: object) -> None:
        raise OSError(98, "Address already in use")

    monkeypatch.setattr(metrics, "start_http_server", take)
    with pytest.raises(RuntimeError, match=r"cannot have port 9464 .*set another LATENTRY_METRICS_PORT"):
        metrics.serve(Settings(metrics_port=9464), str(tmp_path))


def test_a_measurement_that_fails_is_logged_once_and_repeated(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []

    def measure() -> None:
        calls.append(1)
        raise ConnectionError("the database is away")

    def wait(_seconds: float) -> None:
        if len(calls) == 3:
            raise SystemExit

    monkeypatch.setattr(metrics.threading, "Event", lambda: SimpleNamespace(wait=wait))
    with pytest.raises(SystemExit):
        metrics._measure_until_end(measure)
    assert [one.message for one in caplog.records] == ["metrics are not measured; trying again"]
