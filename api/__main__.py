"""Write ``api/openapi.json``: ``python -m api``."""

import tempfile
from pathlib import Path

from api import openapi
from api.app import create_app
from store.settings import Settings

with tempfile.TemporaryDirectory() as folder:
    openapi.DOCUMENT.write_text(openapi.text(create_app(Settings(data_dir=Path(folder)))), encoding="utf-8")
