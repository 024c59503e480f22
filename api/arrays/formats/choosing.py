"""The formats of answers, and which of them a request asks for."""

import re

from pydantic import BaseModel, Field

from api.arrays.formats.arrow import Arrow
from api.arrays.formats.base import Format
from api.arrays.formats.csv import Csv
from api.arrays.formats.hdf5 import Hdf5
from api.arrays.formats.json import Json
from api.arrays.formats.mat import Mat
from api.arrays.formats.npy import Npy
from api.arrays.formats.npz import Npz
from api.arrays.formats.nwb import Nwb
from api.arrays.formats.parquet import Parquet
from api.arrays.formats.zarr import Zarr
from api.errors import Invalid, UnsupportedFormat
from api.validation_errors import FieldProblem

FORMATS: tuple[Format, ...] = (
    Npy(),
    Json(),
    Npz(),
    Csv(),
    Arrow(),
    Parquet(),
    Hdf5(),
    Mat(),
    Nwb(),
    Zarr(),
)
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
    """The format that a request asks for, by its parameter or else by its header `Accept`.

    Raises
    ------
    Invalid
        If there is none of that name.
    UnsupportedFormat
        If none of the accepted types is offered.
    """
    if given is not None:
        for offered in FORMATS:
            if offered.name == given:
                return offered
        names = ", ".join(one.name for one in FORMATS)
        message = f"expected one of {names}; got {given!r}"
        raise Invalid(
            f"format: {message}",
            errors=[FieldProblem(pointer="format", code="format", message=message)],
        )
    by_type = {one.media_type: one for one in FORMATS}
    by_type |= dict.fromkeys(("*/*", "application/*", "application/x-npy", ""), FORMATS[0])
    for kind in _by_preference(accept):
        if kind in by_type:
            return by_type[kind]
    types = ", ".join(f"{one.media_type} ({one.name})" for one in FORMATS)
    raise UnsupportedFormat(f"arrays are offered as {types}; Accept is {accept!r}")


def _by_preference(accept: str) -> list[str]:
    """Media types of an `Accept` header, the wanted first; those of `q=0` are not wanted."""
    weighted = []
    for item in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in item.split(";"))
        weight = next((_WEIGHT.fullmatch(part) for part in parameters if part.startswith("q=")), None)
        weighted.append((float(weight[1]) if weight else 1.0, kind))
    return [kind for quality, kind in sorted(weighted, key=lambda one: -one[0]) if quality > 0]
