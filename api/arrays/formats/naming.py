"""Names of arrays inside a file: unique, and without paths."""

import re

# fmt: off
_KEYWORDS = frozenset((
    "break", "case", "catch", "classdef", "continue", "else", "elseif", "end", "for", "function", "global", "if",
    "otherwise", "parfor", "persistent", "return", "spmd", "switch", "try", "while",
))
# fmt: on


class Names:
    """Hands out unique names of one file: a name that is taken gets a number."""

    longest = 10_000

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def free(self, wanted: str) -> str:
        """Return a name like the wanted one that the file allows, and that is not taken."""
        base = self._allowed(wanted)
        name, number = base[: self.longest], 2
        while name in self._taken:
            ending = f"_{number}"
            name, number = base[: self.longest - len(ending)] + ending, number + 1
        self._taken.add(name)
        return name

    def _allowed(self, wanted: str) -> str:
        """Return the name without slashes, colons and control characters."""
        return re.sub(r"[\x00-\x1f\x7f/\\:]", "_", wanted).strip(". ") or "array"


class MatlabNames(Names):
    """Names of variables and fields in MATLAB: ASCII letters, digits and `_`, a letter first, at most 63 characters."""

    longest = 63

    def _allowed(self, wanted: str) -> str:
        name = re.sub(r"[^A-Za-z0-9_]", "_", wanted)
        is_name = name[:1].isalpha() and name not in _KEYWORDS
        return name if is_name else f"x_{name.lstrip('_')}"
