"""The storage of a service that is filled without training."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from zarr.abc.store import Store

from store.array_store import open_array_store
from store.database import Database
from store.migrate import migrate
from store.settings import Settings


@dataclass
class Seeded:
    """The storage of a service, and the ids of what is in it by name, such as `dataset`, `job_done` or `model`."""

    settings: Settings
    database: Database
    arrays: Store
    ids: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> "Seeded":
        """Open the storage in a folder; create and migrate it if it does not exist."""
        settings = Settings(data_dir=folder)
        database = Database(settings.database_url)
        migrate(database)
        return cls(settings, database, open_array_store("sql:", database), cls.ids_of(folder))

    @staticmethod
    def ids_of(folder: Path) -> dict[str, str]:
        """Return the ids of what is in a folder."""
        path = folder / "ids.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def close(self) -> None:
        """Write the ids, and close the database."""
        (self.settings.data_dir / "ids.json").write_text(json.dumps(self.ids))
        self.database.close()
