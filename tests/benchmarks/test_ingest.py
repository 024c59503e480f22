"""The benchmark of ingest, on small files."""

import json

import pytest

from benchmarks import ingest


@pytest.mark.slow
def test_every_kind_is_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["ingest", "--gigabytes", "0.04", "--json"])
    ingest.main()
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [figures["kind"] for figures in found] == list(ingest.KINDS)
    for figures in found:
        assert all(length > 1 for length in figures["shape"])
        assert 20 < figures["parser_peak_mb"] < 500
        assert 20 < figures["worker_peak_mb"] < 500
