"""A group of arrays over HTTP: those of a data set, or the latents of a model for one."""

from collections.abc import Callable
from dataclasses import dataclass

import zarr
from sqlalchemy.orm import Session
from zarr.abc.store import Store

from api.arrays.group_cache import OpenedGroup, opened
from api.arrays.labelled import LabelledArray, labelled
from api.errors import NotFound


@dataclass(frozen=True)
class ArrayGroup:
    """Where arrays lie, and whose trials theirs are.

    Attributes
    ----------
    path
        In the array store; what lies there never changes.
    dataset_id
        The data set whose trials, in its order, are the rows of the dim ``trial``.
    owner
        Whose they are, in words: ``the model mod_…``.
    may_change
        Whether the owner may have another group one day.
    """

    path: str
    dataset_id: str
    owner: str
    may_change: bool = False

    def opened(self, store: Store) -> OpenedGroup:
        """The group, opened now or before."""
        return opened(store, self.path)

    def open(self, store: Store) -> zarr.Group:
        """The group as Zarr has it, for reading."""
        return self.opened(store).group

    def array(self, store: Store, name: str) -> LabelledArray:
        """One of the arrays, whole.

        Raises
        ------
        NotFound
            With the names there are.
        """
        group = self.opened(store)
        if name not in group.arrays:
            raise NotFound(f"{self.owner} has no array {name!r}", hint=f"it has {', '.join(group.arrays)}")
        return labelled(name, group)


FindGroup = Callable[[Session, str, str], ArrayGroup]
"""(session, tenant, id of the owner) → its group; raises the problem to answer."""
