"""Linear maps of the last axis: principal components, and latents of one model in the space of another model.

A rotation is computed from all trials and bins of both models, whatever is selected, so that separate requests fit together.
"""

from collections.abc import Iterator
from dataclasses import replace
from threading import Lock
from typing import Any, Literal

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray
from zarr.abc.store import Store

from api.arrays.axes import floating, time_dim
from api.arrays.groups import ReadContext
from api.arrays.labelled import Coordinate, LabelledArray
from api.arrays.messages import described, invalid_parameter
from api.caches import of_resources
from api.errors import NotFound, WrongState
from domain import linear_maps
from domain.errors import NoVariance, listed
from domain.latents import LATENTS, SHARED_LATENTS
from domain.linear_maps import AffineMap
from domain.moments import Moments, joined

RotationKind = Literal["procrustes", "cca"]

MOST_FEATURES = 2048
"""Most features of a covariance, which must fit into the memory of the server."""
_DIMS = tuple(LATENTS[name].feature for name in SHARED_LATENTS)
"""Last axes that a rotation may mix."""
_MOST_FITS = 64

# The cache holds the store itself, so that another store cannot have the same id.
_lock = Lock()
_fits: LRUCache[tuple[int, str, str, str, str], tuple[Store, AffineMap]] = of_resources(
    LRUCache(_MOST_FITS), _lock
)


def principal_components(array: LabelledArray, number: int) -> LabelledArray:
    """Return the features' first principal components over everything that is selected, by decreasing variance.

    The largest loading of each component is positive. Samples with NaN are left out of the covariance and stay NaN.

    Parameters
    ----------
    array
        … × features.
    number
        Number of components.

    Raises
    ------
    Invalid
        If the last axis is no feature, or there are fewer than `number` of them, or too few samples.
    """
    is_feature = len(array.dims) > 1 and array.dims[-1] != time_dim(array)
    if not is_feature:
        raise invalid_parameter(
            "components",
            f"expected an array whose last axis is neurons, factors or the like; {array.name} has the axes "
            f"{listed(array.dims)}",
        )
    features = array.shape[-1]
    if features > MOST_FEATURES:
        raise invalid_parameter(
            "components",
            f"expected at most {MOST_FEATURES} of {array.dims[-1]}; {array.name} has {features}",
            "select some of them",
        )
    moments = Moments(features).add_all(floating(array).blocks())
    most = min(features, moments.count - 1)
    if number > most:
        raise invalid_parameter(
            "components",
            f"expected at most {max(0, most)}; got {number}: {features} of {array.dims[-1]} and {moments.count} samples without "
            "NaN are selected",
        )
    try:
        fitted = linear_maps.principal_components(moments, number)
    except NoVariance:
        raise invalid_parameter("components", f"what is selected of {array.name} does not vary") from None
    found = _mapped(array, fitted, "component")
    return replace(
        found,
        coordinates=(*found.coordinates, Coordinate("component", "component", np.arange(number))),
        description=described(array.description, f"principal components of {array.dims[-1]}"),
        attributes={**array.attributes, "components_of": array.dims[-1], **fitted.attributes},
    )


def rotate(
    array: LabelledArray, reference_id: str, kind: RotationKind, context: ReadContext
) -> LabelledArray:
    """Return latents in the space of the same latents of a reference model.

    Parameters
    ----------
    array
        Latents, … × features, with all features.
    reference_id
        A model with latents for the same data set.
    kind
        See `domain.linear_maps.procrustes` and `domain.linear_maps.cca`.
    context
        Context of the request.

    Raises
    ------
    Invalid
        If these are no latents that can be rotated, or not all features, or there is no such reference.
    """
    if not array.dims or array.dims[-1] not in _DIMS:
        raise invalid_parameter(
            "rotate_to",
            f"expected latents whose last axis is one of {listed(_DIMS)}; {array.name} has the axes {listed(array.dims)}",
            f"{listed(SHARED_LATENTS)} can be rotated",
        )
    whole = context.group.array(context.store, array.name)
    index = array.index(array.dims[-1])
    is_in_order = index is None or bool((np.diff(index.values) == 1).all())
    if array.shape[-1] != whole.shape[-1] or not is_in_order:
        raise invalid_parameter(
            "rotate_to",
            f"expected all {whole.shape[-1]} of {whole.dims[-1]}; {array.shape[-1]} are selected",
            "select none of them: each is mixed of all",
        )
    fitted = _fit(whole, reference_id, kind, context)
    return replace(
        _mapped(array, fitted, array.dims[-1]),
        description=described(array.description, f"in the space of the model {reference_id}"),
        attributes={**array.attributes, "rotated_to": reference_id, "rotation": kind, **fitted.attributes},
    )


def reference_path(reference_id: str, context: ReadContext) -> str:
    """Return the path of the latents of a reference model, which a response depends on, too.

    Raises
    ------
    Invalid
        If there is no such model with latents.
    """
    try:
        return context.find_reference(context.session, context.tenant_id, reference_id).path
    except (NotFound, WrongState) as error:
        raise invalid_parameter("rotate_to", error.detail, error.hint) from error


def _fit(whole: LabelledArray, reference_id: str, kind: RotationKind, context: ReadContext) -> AffineMap:
    """Return the map of whole latents to those of the reference, from the cache if it is there: neither ever changes."""
    store, reference = context.store, _reference(whole, reference_id, context)
    key = (id(store), context.group.path, reference_path(reference_id, context), whole.name, kind)
    with _lock:
        held = _fits.get(key)
    if held is not None and held[0] is store:
        return held[1]
    features = whole.shape[-1]
    moments = Moments(features + reference.shape[-1])
    moments.add_all(joined(whole.blocks(), reference.blocks()))
    varies = np.diag(moments.scatter) > 0
    if moments.count < 2 or not varies[:features].any() or not varies[features:].any():
        raise invalid_parameter("rotate_to", f"{whole.name} of this model or of {reference_id} do not vary")
    fitted = {"procrustes": linear_maps.procrustes, "cca": linear_maps.cca}[kind](moments, features)
    with _lock:
        _fits[key] = (store, fitted)
    return fitted


def _reference(whole: LabelledArray, reference_id: str, context: ReadContext) -> LabelledArray:
    path, group = reference_path(reference_id, context), context.group
    found = context.find_reference(context.session, context.tenant_id, reference_id)
    if found.dataset_id != group.dataset_id:
        raise invalid_parameter(
            "rotate_to",
            f"expected a model with latents for the data set {group.dataset_id}; {reference_id} has those for "
            f"{found.dataset_id}",
            "only latents for the same trials can be compared",
        )
    if path == group.path:
        return whole
    try:
        reference = found.array(context.store, whole.name)
    except NotFound as error:
        raise invalid_parameter("rotate_to", error.detail, error.hint) from error
    if (reference.dims, reference.shape[:-1]) != (whole.dims, whole.shape[:-1]):
        raise invalid_parameter(
            "rotate_to",
            f"{whole.name} of {reference_id} are {listed(reference.shape)}, those here {listed(whole.shape)}",
            "only latents for the same trials and bins can be compared",
        )
    return reference


def _mapped(array: LabelledArray, by: AffineMap, dim: str) -> LabelledArray:
    """Return the array with its last axis mapped, block by block; the new axis is called `dim`."""
    source = floating(array)

    def blocks() -> Iterator[NDArray[Any]]:
        return (by(block).astype(source.dtype) for block in source.blocks())

    return replace(
        source,
        dims=(*array.dims[:-1], dim),
        shape=(*array.shape[:-1], by.matrix.shape[1]),
        coordinates=tuple(one for one in array.coordinates if one.dim != array.dims[-1]),
        blocks=blocks,
    )
