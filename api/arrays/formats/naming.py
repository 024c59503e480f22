"""Names of arrays inside a file: each its own, and none a path."""

import re


class Names:
    """Hands out names of one file; a name that was given before comes back with a number."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def free(self, wanted: str) -> str:
        """A name like the wanted one that no other has: without slashes, colons and control characters."""
        base = re.sub(r"[\x00-\x1f\x7f/\\:]", "_", wanted).strip(". ") or "array"
        name, number = base, 2
        while name in self._taken:
            name, number = f"{base}_{number}", number + 1
        self._taken.add(name)
        return name
