"""The benchmark of queries, on a small result."""

import json

import pytest

from benchmarks import query


@pytest.mark.slow
def test_every_question_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["query", "--quick", "--json", "--seconds", "0.4", "--clients", "2"])
    query.main()
    found = {line["kind"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert list(found) == list(query.KINDS)
    for line in found.values():
        assert 0 < line["p50_ms"] <= line["p99_ms"] < 30_000
        assert (line["database"], line["clients"], line["bytes"]) == ("sqlite", 2, 10_000_000)
        assert 30 < line["server_peak_mb"] < 1000
    assert found["slice"]["answer_bytes"] == 128 + 5 * 10 * 4  # npy: a head of 128 bytes
    assert found["unchanged"]["answer_bytes"] < found["slice"]["answer_bytes"]
    assert found["whole"]["mb_per_s"] > 1
