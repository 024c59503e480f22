"""docs/client.md names every class of error; tests/integration/test_pages.py runs its code."""

from pathlib import Path

import latentry

ROOT = Path(__file__).resolve().parents[2]


def test_every_class_of_error_is_in_the_guide() -> None:
    page = (ROOT / "docs/client.md").read_text()
    kinds = [latentry.LatentryError, *latentry.LatentryError.__subclasses__()]
    assert len(kinds) > 10
    for kind in kinds:
        assert f"{kind.__name__}`" in page, kind.__name__
