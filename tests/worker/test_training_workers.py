"""One training worker for each GPU of a machine, by `latentry up` and by `latentry worker`."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from latentry.main import app
from typer.testing import CliRunner

from tests.waiting import wait_until
from worker import training_workers as found
from worker.embedded import EmbeddedService
from worker.supervisor import EmbeddedServiceError
from worker.training_workers import TrainingWorkers, training_workers

ADDRESSES = {
    "LATENTRY_DATABASE_URL": "sqlite:////nowhere/x.db",
    "LATENTRY_REDIS_URL": "redis://127.0.0.1:1/0",
}


@pytest.fixture(autouse=True)
def _no_visible_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("LATENTRY_DEVICE", raising=False)


def devices(device: str, number: int | None = None) -> list[dict[str, str]]:
    return [dict(one.environment) for one in training_workers(device, number)]


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_every_gpu_has_its_worker(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(found, "_gpus", lambda: 3)
    assert devices(device) == [{"LATENTRY_DEVICE": f"cuda:{number}"} for number in range(3)]
    assert devices(device, 2) == devices(device)[:2]
    assert devices(device, 4) == [*devices(device), {"LATENTRY_DEVICE": "cuda:0"}]
    names = [(one.name, one.command[-1]) for one in training_workers(device, None)]
    assert names == [(f"worker-{number}", f"slices-{number}@%h") for number in range(3)]


def test_every_part_of_a_gpu_has_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA shows a process only the first part in the list."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1a, MIG-2b")
    assert devices("auto") == [
        {"CUDA_VISIBLE_DEVICES": part, "LATENTRY_DEVICE": "cuda:0"} for part in ("MIG-1a", "MIG-2b")
    ]


def test_a_device_that_is_named_is_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(found, "_gpus", lambda: 3)
    assert devices("cuda:1") == [{}]  # LATENTRY_DEVICE is in the environment already
    assert devices("cpu") == [{}] * min(8, os.cpu_count() or 1)


def test_without_a_gpu_auto_takes_the_cores_and_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(found, "_gpus", lambda: 0)
    assert devices("auto") == [{}] * min(8, os.cpu_count() or 1)
    with pytest.raises(EmbeddedServiceError, match="LATENTRY_DEVICE=cuda, but torch finds no GPU"):
        training_workers("cuda", 1)


@pytest.mark.parametrize(
    ("files", "answer", "expected", "warns"),
    [
        ([], None, 0, ""),
        (["nvidia0", "nvidia1"], "2\n", 2, ""),
        (["kfd"], "some library's banner\n4\n", 4, ""),
        (["nvidia0"], "0\n", 0, "torch cannot use it"),
        (["nvidia0"], "", 0, "could not ask torch"),
        (["nvidiactl"], None, 0, ""),
    ],
)
def test_torch_is_asked_for_gpus_only_where_there_may_be_some(
    files: list[str],
    answer: str | None,
    expected: int,
    warns: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in files:
        (tmp_path / name).touch()
    monkeypatch.setattr(found, "Path", lambda _dev: tmp_path)

    def run(*_: Any, **__: Any) -> Any:
        assert answer is not None, "a process was started"
        return SimpleNamespace(stdout=answer)

    fake = SimpleNamespace(run=run, SubprocessError=subprocess.SubprocessError)
    monkeypatch.setattr(found, "subprocess", fake)
    assert found._gpus() == expected
    assert warns in caplog.text


def test_latentry_up_refuses_a_device_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTRY_DEVICE", "cuda")
    monkeypatch.setattr(found, "_gpus", lambda: 0)
    with pytest.raises(EmbeddedServiceError, match="torch finds no GPU"):
        EmbeddedService(tmp_path / "data", port=0).start()
    assert not (tmp_path / "data").exists()


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Workers that write their device into a file and wait; the folder of these files."""
    program = f"import os, signal; open({str(tmp_path)!r} + '/' + os.environ['LATENTRY_DEVICE'], 'a').write('x'); signal.pause()"
    monkeypatch.setattr(found, "celery_command", lambda *_: [sys.executable, "-S", "-c", program])
    monkeypatch.setattr(found, "_gpus", lambda: 2)
    for name, value in ADDRESSES.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def test_workers_run_are_started_again_and_stop(stand_in: Path) -> None:
    workers = TrainingWorkers(None, 1)
    assert workers.start() == ["cuda:0", "cuda:1"]
    files = [stand_in / device for device in ("cuda:0", "cuda:1")]
    wait_until(lambda: all(file.exists() for file in files))
    first, second = workers._children
    first.process.kill()
    first.process.wait()
    deadline = time.monotonic() + 60
    workers.watch(lambda: files[0].read_text() == "xx" or time.monotonic() > deadline)
    assert [file.read_text() for file in files] == ["xx", "x"]
    processes = [first.process, second.process]
    workers.stop()
    assert all(process.poll() is not None for process in processes)


def test_the_command_says_which_devices_train(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainingWorkers, "watch", lambda *_: None)
    result = CliRunner().invoke(app, ["worker"])
    assert result.exit_code == 0, result.output
    assert "Train  2 workers: cuda:0, cuda:1" in result.output


def test_the_command_needs_the_addresses_of_the_service(
    stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LATENTRY_REDIS_URL")
    result = CliRunner().invoke(app, ["worker"])
    assert result.exit_code == 1
    assert "set LATENTRY_REDIS_URL to the addresses of the service" in result.output
