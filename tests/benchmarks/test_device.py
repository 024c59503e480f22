"""The benchmark of a device, on the CPU."""

import json

import pytest

from benchmarks import device


def test_every_part_runs_on_the_cpu(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("DEVICE", "cpu")
    output = tmp_path / "device.json"
    lines = device.main(["--quick", "--json", "--output", str(output)])
    assert [(line["part"], line["ok"], line.get("error")) for line in lines] == [
        (name, True, None) for name in device.PARTS
    ]
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == lines
    assert json.loads(output.read_text())["parts"] == lines
    assert device.tables(lines).count("\n| ") >= len(device.PARTS)


@pytest.mark.parametrize("minutes", [1, 0])
def test_a_part_that_fails_is_told_and_no_part_begins_late(minutes, monkeypatch):
    def broken(_run):
        raise RuntimeError("it broke\nhere")

    monkeypatch.setattr(device, "PARTS", {"broken": broken})
    run = device.Run("cpu", True, device.time.monotonic() + 60 * minutes)
    (line,) = device.measure(run, ["broken"], lambda _: None)
    assert not line["ok"]
    assert line["error"] == (
        "RuntimeError: it broke" if minutes else "the time was over before this part began"
    )
