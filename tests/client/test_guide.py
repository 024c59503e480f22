"""The code of docs/client.md and of the client's own README runs, against a service that answers little."""

import ast
import asyncio
import re
from functools import partial
from inspect import isawaitable
from pathlib import Path
from types import FunctionType
from typing import Any

import httpx
import latentry
import numpy as np
import pytest

from tests.client.recorded_service import FILE_CONTENT, RecordedService

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("page", ["docs/client.md", "client/README.md"])
def test_the_code_of_the_guide_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = RecordedService()
    monkeypatch.chdir(tmp_path)
    Path("spikes.npz").write_bytes(FILE_CONTENT)
    transport = httpx.MockTransport(service)
    for name in ("Client", "AsyncClient"):
        monkeypatch.setitem(latentry.__dict__, name, partial(getattr(latentry, name), transport=transport))
    names: dict[str, Any] = {
        "np": np, "asyncio": asyncio, "spikes": np.zeros((2, 3, 4), int), "other_dataset": "dat_2",
    }  # fmt: skip
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    for block in blocks:
        code = compile(block.replace("lat_…", "lat_secret"), page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        waiting = FunctionType(code, names)()
        if isawaitable(waiting):
            asyncio.run(waiting)  # type: ignore[arg-type]
    assert service.problems == []
    assert len(service.operations) > len(blocks)


def test_every_class_of_error_is_in_the_guide() -> None:
    page = (ROOT / "docs/client.md").read_text()
    kinds = [latentry.LatentryError, *latentry.LatentryError.__subclasses__()]
    assert len(kinds) > 10
    for kind in kinds:
        assert f"{kind.__name__}`" in page, kind.__name__
