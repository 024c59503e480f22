"""The parts of `benchmarks.hostile`. What is imported from `tests` is of this repository, whatever else is installed."""

import sys
from pathlib import Path
from types import ModuleType

_OURS = str(Path(__file__).resolve().parents[2] / "tests")

if _OURS not in getattr(sys.modules.get("tests"), "__path__", ()):
    # Some distributions install their own tests under this very name.
    sys.modules["tests"] = ModuleType("tests")
    sys.modules["tests"].__path__ = [_OURS]
