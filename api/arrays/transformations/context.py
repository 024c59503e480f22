"""What a transformation may look at beside the array."""

from dataclasses import dataclass

from sqlalchemy.orm import Session
from zarr.abc.store import Store

from api.arrays.group import ArrayGroup


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
