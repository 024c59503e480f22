"""The benchmark of neighbours, with one attack."""

import json

import pytest

from benchmarks import neighbours


@pytest.mark.slow
def test_an_attack_is_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["neighbours", "--quick", "--json", "--attacks", "unknown_keys"])
    neighbours.main()
    (found,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (found["database"], found["attack"]) == ("sqlite", "unknown_keys")
    for beside in ("alone", "beside"):
        assert 0 < found[f"p50_ms_{beside}"] <= found[f"p99_ms_{beside}"] < 30_000
    assert 0 < found["loop_lag_ms_max"] < 5_000  # 55 s before errors of requests were bounded
