"""Formats of responses: one class for each, which writes piece by piece or to a temporary file first."""

import re

from pydantic import BaseModel, Field

from api.arrays.formats.base import Encoded, Format, WriteContext
from api.arrays.formats.hdf5 import Hdf5
from api.arrays.formats.json import Json
from api.arrays.formats.mat import Mat
from api.arrays.formats.npy import Npy, Npz
from api.arrays.formats.nwb import Nwb
from api.arrays.formats.tables import Arrow, Csv, Parquet
from api.arrays.formats.zarr import Zarr
from api.arrays.messages import invalid_parameter
from api.errors import UnsupportedFormat

__all__ = ["FORMATS", "Encoded", "Format", "FormatChoice", "WriteContext", "choose_format"]

FORMATS: tuple[Format, ...] = (
    Npy(), Json(), Npz(), Csv(), Arrow(), Parquet(), Hdf5(), Mat(), Nwb(), Zarr(),
)  # fmt: skip
"""The first is the default."""

_WEIGHT = re.compile(r"q=([01](?:\.[0-9]{0,3})?)")


class FormatChoice(BaseModel):
    """The parameter of a request that names a format."""

    format_: str | None = Field(
        None,
        alias="format",
        max_length=20,
        description=f"One of {', '.join(f'`{one.name}`' for one in FORMATS)}; `npy` is the default. Or by Accept.",
    )


def choose_format(given: str | None, accept: str) -> Format:
    """Return the format that a request asks for, by its parameter or else by its header `Accept`.

    Raises
    ------
    Invalid
        If there is no format of that name.
    UnsupportedFormat
        If none of the accepted types is offered.
    """
    if given is not None:
        for offered in FORMATS:
            if offered.name == given:
                return offered
        names = ", ".join(one.name for one in FORMATS)
        raise invalid_parameter("format", f"expected one of {names}; got {given!r}")
    by_type = {one.media_type: one for one in FORMATS}
    by_type |= dict.fromkeys(("*/*", "application/*", "application/x-npy", ""), FORMATS[0])
    for kind in _by_preference(accept):
        if kind in by_type:
            return by_type[kind]
    types = ", ".join(f"{one.media_type} ({one.name})" for one in FORMATS)
    raise UnsupportedFormat(f"arrays are offered as {types}; Accept is {accept[:_LONGEST_ACCEPT]!r}")


_LONGEST_ACCEPT = 1_000


def _by_preference(accept: str) -> list[str]:
    """Return the media types of an `Accept` header, the preferred first; types with `q=0` are left out."""
    weighted = []
    for item in accept[:_LONGEST_ACCEPT].split(","):
        kind, *parameters = (part.strip().lower() for part in item.split(";"))
        weight = next((_WEIGHT.fullmatch(part) for part in parameters if part.startswith("q=")), None)
        weighted.append((float(weight[1]) if weight else 1.0, kind))
    return [kind for quality, kind in sorted(weighted, key=lambda one: -one[0]) if quality > 0]
