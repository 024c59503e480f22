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
    href: str


class ArrayList(BaseModel):
    """The arrays of a data set or a model."""

    items: list[ArrayDocument]
    zarr: str = Field(description="URL path that zarr and xarray open as a Zarr v3 group.")


class ArrayValues(BaseModel):
    """Values of an array, or of a slice of it. NaN is written as null."""

    name: str
    dims: list[str]
    shape: list[int]
    dtype: str
    units: str
    values: Any
