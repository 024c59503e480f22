"""The parameters of a request that say what is done to the selected part of an array, and in which order it is done."""

from dataclasses import dataclass

from pydantic import BaseModel
from sqlalchemy.orm import Session
from zarr.abc.store import Store

from api.arrays.group import ArrayGroup
from api.arrays.labelled import LabelledArray


class Transformation(BaseModel):
    """Parameters of a request that say what is done to what was selected."""


@dataclass(frozen=True)
class Surroundings:
    """What a transformation may look at beside the array.

    Attributes
    ----------
    session
        Of the database, for reading.
    store
        Of the arrays.
    tenant_id
        Whose request it is.
    group
        Whose array it is.
    """

    session: Session
    store: Store
    tenant_id: str
    group: ArrayGroup


def transform(
    array: LabelledArray, wanted: Transformation, surroundings: Surroundings
) -> tuple[LabelledArray, ...]:
    """The array with everything done to it that is asked for; further arrays may come beside it, such as its standard error.

    Raises
    ------
    Invalid
        If it can't be done to this array; the message says what could.
    """
    return (array,)
