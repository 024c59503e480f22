"""`latentry demo --json` as a script would use it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(600)
def test_the_demo_finds_the_true_rates(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "latentry.main", "demo", "--json", "--data-dir", str(tmp_path / "demo")]
    command += ["--epochs", "12"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert set(result) == {"job_id", "model_id", "sv_loss", "r2_true_rates", "seconds"}
    assert result["r2_true_rates"] > 0.7  # after a third of the epochs that the demo has otherwise
    assert (tmp_path / "demo" / "true_and_inferred_rates.png").stat().st_size > 20_000
