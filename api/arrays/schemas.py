"""Documents of arrays."""

from typing import Any

from pydantic import BaseModel, Field


class ArrayDocument(BaseModel):
    """What an array is."""

    name: str
    dims: list[str] = Field(description="Name of each axis; arrays of the same name are its coordinates.")
    shape: list[int]
    dtype: str
    units: str = ""
    description: str = ""
    attributes: dict[str, Any] = Field(default_factory=dict)
    coordinates: list[str] = Field(
        default_factory=list,
        description="Arrays that tell of the entries along its dims, such as `time_s` and `split`.",
    )
    href: str


class ArrayList(BaseModel):
    """The arrays of a data set or a model."""

    items: list[ArrayDocument]
    zarr: str = Field(description="URL path that zarr and xarray open as a Zarr v3 group.")


class CoordinateValues(BaseModel):
    """What is known of each entry along a dim: its time, its neuron, the split of its trial."""

    dim: str
    units: str = ""
    description: str = ""
    attributes: dict[str, Any] = Field(
        default_factory=dict, description="`flag_values` and `flag_meanings` say which words codes stand for."
    )
    values: list[Any] = Field(description="One for each entry; NaN is written as null.")


class ArrayValues(BaseModel):
    """Values of an array, or of a slice of it. NaN is written as null."""

    name: str
    dims: list[str]
    shape: list[int]
    dtype: str
    units: str
    description: str = ""
    attributes: dict[str, Any] = Field(default_factory=dict)
    values: Any
    coordinates: dict[str, CoordinateValues] = Field(
        default_factory=dict, description="By name; the one that has the name of its dim is its index."
    )
    beside: list["ArrayValues"] = Field(
        default_factory=list, description="Arrays that belong to it, such as its standard error."
    )
