"""Latents of one model in the space of another's: both for the same trials, where only a linear map may lie between them.

The map is found from all trials and bins of both models, whatever is selected, so that parts asked for one by one fit together.
"""

from dataclasses import replace
from threading import Lock
from typing import Literal

import numpy as np
from cachetools import LRUCache
from zarr.abc.store import Store

from api.arrays.labelled import LabelledArray
from api.arrays.transformations.context import Surroundings
from api.arrays.transformations.linear import mapped
from api.arrays.transformations.wording import described, listed, refusal
from api.errors import NotFound, WrongState
from api.models.service import find_latents
from domain.latents import LATENTS, SHARED_LATENTS
from domain.linear_maps import AffineMap, cca, procrustes
from domain.moments import Moments, joined

RotationKind = Literal["procrustes", "cca"]

_DIMS = tuple(LATENTS[name].feature for name in SHARED_LATENTS)
"""Last axes that a rotation may mix."""

_MOST_FITS = 64
"""Kept for whoever asks for one part after the other."""


# A store is held with what was fitted to its arrays, so that another can't have its id.
_fits: LRUCache[tuple[int, str, str, str, str], tuple[Store, AffineMap]] = LRUCache(_MOST_FITS)
_lock = Lock()


def rotate(
    array: LabelledArray, reference_id: str, kind: RotationKind, surroundings: Surroundings
) -> LabelledArray:
    """Latents in the space of the same latents of a reference model.

    Parameters
    ----------
    array
        Latents, … × features, with all features.
    reference_id
        A model with latents for the same data set.
    kind
        ``procrustes`` or ``cca``, see `procrustes` and `cca`.
    surroundings
        Of the request.

    Raises
    ------
    Invalid
        If these are no latents that can be rotated, or not all features, or there is no such reference.
    """
    if not array.dims or array.dims[-1] not in _DIMS:
        raise refusal(
            "rotate_to",
            f"expected latents whose last axis is one of {listed(_DIMS)}; {array.name} has the axes {listed(array.dims)}",
            f"{listed(SHARED_LATENTS)} can be rotated",
        )
    whole = surroundings.group.array(surroundings.store, array.name)
    index = array.index(array.dims[-1])
    is_in_order = index is None or bool((np.diff(index.values) == 1).all())
    if array.shape[-1] != whole.shape[-1] or not is_in_order:
        raise refusal(
            "rotate_to",
            f"expected all {whole.shape[-1]} of {whole.dims[-1]}; {array.shape[-1]} are selected",
            "select none of them: each is mixed of all",
        )
    fitted = _fit(whole, reference_id, kind, surroundings)
    return replace(
        mapped(array, fitted, array.dims[-1]),
        description=described(array.description, f"in the space of the model {reference_id}"),
        attributes={**array.attributes, "rotated_to": reference_id, "rotation": kind, **fitted.attributes},
    )


def _fit(
    whole: LabelledArray, reference_id: str, kind: RotationKind, surroundings: Surroundings
) -> AffineMap:
    """The map of whole latents to those of the reference, found now or before: neither ever changes."""
    store, reference = surroundings.store, _reference(whole, reference_id, surroundings)
    key = (id(store), surroundings.group.path, reference_path(reference_id, surroundings), whole.name, kind)
    with _lock:
        held = _fits.get(key)
    if held is not None and held[0] is store:
        return held[1]
    features = whole.shape[-1]
    moments = Moments(features + reference.shape[-1])
    moments.add_all(joined(whole.blocks(), reference.blocks()))
    varies = np.diag(moments.scatter) > 0
    if moments.count < 2 or not varies[:features].any() or not varies[features:].any():
        raise refusal("rotate_to", f"{whole.name} of this model or of {reference_id} do not vary")
    fitted = {"procrustes": procrustes, "cca": cca}[kind](moments, features)
    with _lock:
        _fits[key] = (store, fitted)
    return fitted


def reference_path(reference_id: str, surroundings: Surroundings) -> str:
    """Where the latents of a reference model lie: what an answer depends on beside its own arrays.

    Raises
    ------
    Invalid
        If there is no such model with latents.
    """
    try:
        return find_latents(surroundings.session, surroundings.tenant_id, reference_id).path
    except (NotFound, WrongState) as error:
        raise refusal("rotate_to", error.detail, error.hint) from error


def _reference(whole: LabelledArray, reference_id: str, surroundings: Surroundings) -> LabelledArray:
    path, group = reference_path(reference_id, surroundings), surroundings.group
    found = find_latents(surroundings.session, surroundings.tenant_id, reference_id)
    if found.dataset_id != group.dataset_id:
        raise refusal(
            "rotate_to",
            f"expected a model with latents for the data set {group.dataset_id}; {reference_id} has those for "
            f"{found.dataset_id}",
            "only latents for the same trials can be compared",
        )
    if path == group.path:
        return whole
    try:
        reference = found.array(surroundings.store, whole.name)
    except NotFound as error:
        raise refusal("rotate_to", error.detail, error.hint) from error
    if (reference.dims, reference.shape[:-1]) != (whole.dims, whole.shape[:-1]):
        raise refusal(
            "rotate_to",
            f"{whole.name} of {reference_id} are {listed(reference.shape)}, those here {listed(whole.shape)}",
            "only latents for the same trials and bins can be compared",
        )
    return reference
