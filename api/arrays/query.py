"""A question to one array: which part of it, what is done to it, in which format it is answered."""

from pydantic import ConfigDict

from api.arrays.formats import FormatChoice
from api.arrays.group import ArrayGroup
from api.arrays.labelled import LabelledArray
from api.arrays.selection import Selection, select
from api.arrays.transformations import Transformation, transform
from api.arrays.transformations.parameters import Surroundings


class ArrayQuery(Selection, Transformation, FormatChoice):
    """Parameters of the question; one that is not known is refused."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)


def ask(name: str, query: ArrayQuery, surroundings: Surroundings) -> tuple[LabelledArray, ...]:
    """The array that answers a question, and those that belong to it; nothing of size is read yet.

    Raises
    ------
    NotFound
        If there is no such array.
    Invalid
        If the question does not fit it.
    """
    group: ArrayGroup = surroundings.group
    whole = group.array(surroundings.store, name)
    selected = select(whole, group.open(surroundings.store)[name], query)  # type: ignore[arg-type]
    return transform(selected, query, surroundings)
