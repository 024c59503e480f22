"""Principal components of the last axis."""

from dataclasses import replace

import numpy as np

from api.arrays.labelled import Coordinate, LabelledArray
from api.arrays.transformations.linear import mapped
from api.arrays.transformations.time_axis import time_dim
from api.arrays.transformations.trials import floating
from api.arrays.transformations.wording import described, listed, refusal
from domain import linear_maps
from domain.errors import NoVariance
from domain.moments import Moments

MOST_FEATURES = 2048
"""The covariance of more would not fit a server that answers others too."""


def principal_components(array: LabelledArray, number: int) -> LabelledArray:
    """The features' first principal components over everything that is selected, by decreasing variance.

    Of each component the largest loading is positive. Samples with NaN are left out of the covariance and stay NaN.

    Parameters
    ----------
    array
        … × features.
    number
        Of components.

    Raises
    ------
    Invalid
        If the last axis is no feature, or there are fewer than `number` of them, or too few samples.
    """
    is_feature = len(array.dims) > 1 and array.dims[-1] != time_dim(array)
    if not is_feature:
        raise refusal(
            "components",
            f"expected an array whose last axis is neurons, factors or the like; {array.name} has the axes "
            f"{listed(array.dims)}",
        )
    features = array.shape[-1]
    if features > MOST_FEATURES:
        raise refusal(
            "components",
            f"expected at most {MOST_FEATURES} of {array.dims[-1]}; {array.name} has {features}",
            "select some of them",
        )
    moments = Moments(features).add_all(floating(array).blocks())
    most = min(features, moments.count - 1)
    if number > most:
        raise refusal(
            "components",
            f"expected at most {max(0, most)}; got {number}: {features} of {array.dims[-1]} and {moments.count} samples without "
            "NaN are selected",
        )
    try:
        fitted = linear_maps.principal_components(moments, number)
    except NoVariance:
        raise refusal("components", f"what is selected of {array.name} does not vary") from None
    found = mapped(array, fitted, "component")
    return replace(
        found,
        coordinates=(*found.coordinates, Coordinate("component", "component", np.arange(number))),
        description=described(array.description, f"principal components of {array.dims[-1]}"),
        attributes={
            **array.attributes,
            "components_of": array.dims[-1],
            **fitted.attributes,
        },
    )
