"""The commands of docs/sessions.md, run as they stand on a whole service."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from worker.embedded import EmbeddedService

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "sessions.md"


@pytest.mark.slow
def test_commands_of_the_guide(service: EmbeddedService, tmp_path: Path) -> None:
    blocks = re.findall(r"```bash\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "".join(blocks)],  # they share their variables
        cwd=tmp_path,
        env={**os.environ, "LATENTRY": service.url, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count('"state":"ready"') == 3
    assert '"trials":400,"bins":50,"neurons":36' in done.stdout
    assert np.load(tmp_path / "rates.npy").shape == (5, 50, 20)
    assert "xarray.DataArray 'factors' (session: 2)" in done.stdout
