"""The README's commands, run word for word (but for the port and the folder, which must be free)."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.servers import free_port

README = Path(__file__).resolve().parents[2] / "README.md"
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks() -> list[tuple[str, str]]:
    return [(match[1], match[2]) for match in BLOCK.finditer(README.read_text())]


def test_the_readme_begins_with_the_two_commands() -> None:
    assert blocks()[0] == ("bash", "make demo\n")
    assert "`make test`" in README.read_text()


@pytest.mark.timeout(400)
def test_the_quickstart_works_as_written(tmp_path: Path) -> None:
    found = blocks()
    assert found[1] == ("bash", "latentry up\n")
    port = free_port()
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",
    }
    command = ["latentry", "up", "--port", str(port)]
    server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert server.stdout.readline().startswith(f"Page   http://127.0.0.1:{port}")
    shell = "set -eu\n"
    try:
        for kind, text in found[2:]:
            script = text.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
            if kind == "bash":
                shell += script  # the blocks share their variables
            else:
                name = f"block_{len(shell)}.py"
                (tmp_path / name).write_text(script)
                shell += f"python {name}\n"
        done = subprocess.run(
            ["bash", "-c", shell], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert '"valid":true' in done.stdout
        assert "event: job.state" in done.stdout
        assert '"units":"spikes/s"' in done.stdout
        assert np.load(tmp_path / "factors.npy").shape == (120, 50, 16)
        assert "xarray.DataArray 'factors' (trial: 24" in done.stdout
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=120)
    assert server.returncode == 0
    assert (tmp_path / "latentry-data" / "latentry.db").exists()


def test_every_linked_page_is_there() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README.read_text())
    assert len(links) > 5
    for link in links:
        assert (README.parent / link).exists(), link
