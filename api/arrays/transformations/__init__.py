"""Transformations of the selected part of an array: the parameters, and their order. Each makes one labelled array of another."""

from pydantic import BaseModel, Field

from api.arrays.axes import floating, with_recorded_bins
from api.arrays.groups import ReadContext
from api.arrays.labelled import LabelledArray
from api.arrays.messages import invalid_parameter
from api.arrays.transformations.alignment import EventClock, align
from api.arrays.transformations.along_time import rebin, smooth
from api.arrays.transformations.averages import Statistic, average
from api.arrays.transformations.linear_maps import (
    MOST_FEATURES,
    RotationKind,
    principal_components,
    reference_path,
    rotate,
)

__all__ = ["Transformation", "depends_on", "transform"]


class Transformation(BaseModel):
    """Parameters of transformations, which are done in this order, whatever their order in the request."""

    align_to: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="Event that becomes time 0: trial metadata with its times in seconds. Trials without it are NaN.",
    )
    window_s: str | None = Field(
        None, max_length=100, description="Seconds around the event of `align_to`, e.g. `-0.1:0.4`."
    )
    event_clock: EventClock | None = Field(
        None,
        description="Clock of the event's times: the `session`'s, or the `trial`'s time axis. By default the service detects it.",
    )
    smooth_s: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Smooth along time by a Gaussian of this standard deviation, in seconds.",
    )
    rebin_s: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Width of wider bins, in seconds: a multiple of the bin width. Counts are summed, all else is averaged.",
    )
    rotate_to: str | None = Field(
        None,
        min_length=1,
        max_length=60,
        description="Model with latents for the same trials, into whose space these latents are brought.",
    )
    rotation: RotationKind | None = Field(
        None, description="Method of `rotate_to`: `procrustes` (default) or `cca`."
    )
    components: int | None = Field(
        None,
        ge=1,
        le=MOST_FEATURES,
        description="Number of principal components of the last axis, over what is selected.",
    )
    average: str | None = Field(
        None,
        min_length=1,
        max_length=400,
        description="Average over the trials of each value of this metadata, or of `split`; of several, separated by commas. "
        "`condition` stands for the conditions that the report names.",
    )
    statistic: Statistic | None = Field(
        None,
        description="The first array of `average`; by default `mean`. Formats of several arrays have all of mean, standard "
        "error and count.",
    )

    @property
    def is_transformation(self) -> bool:
        """Return whether a transformation is requested."""
        return any(getattr(self, name) is not None for name in Transformation.model_fields)


_NEEDS = (
    ("window_s", "align_to"),
    ("align_to", "window_s"),
    ("event_clock", "align_to"),
    ("rotation", "rotate_to"),
    ("statistic", "average"),
)
"""Parameters that need another one."""


def transform(
    array: LabelledArray, wanted: Transformation, context: ReadContext
) -> tuple[LabelledArray, ...]:
    """Return the transformed array; other arrays may follow it, such as its standard error.

    Only rotations and principal components read values at once, because they report how well they fit. All others read later.

    Raises
    ------
    Invalid
        If a transformation does not fit the array; the message says what would.
    """
    for name, other in _NEEDS:
        if getattr(wanted, name) is not None and getattr(wanted, other) is None:
            raise invalid_parameter(other, f"expected {other} with {name}; there is {name} alone")
    if not wanted.is_transformation:
        return (array,)
    _check_values(array)
    array = with_recorded_bins(array, context)
    if array.missing is not None:
        array = floating(array)  # before bins are summed or averaged
    if wanted.align_to is not None and wanted.window_s is not None:
        array = align(array, wanted.align_to, wanted.window_s, wanted.event_clock, context)
    if wanted.smooth_s is not None:
        array = smooth(array, wanted.smooth_s, context)
    if wanted.rebin_s is not None:
        array = rebin(array, wanted.rebin_s, context)
    if wanted.rotate_to is not None:
        array = rotate(array, wanted.rotate_to, wanted.rotation or "procrustes", context)
    if wanted.components is not None:
        array = principal_components(array, wanted.components)
    if wanted.average is not None:
        return average(array, wanted.average, wanted.statistic or "mean", context)
    return (array,)


def depends_on(wanted: Transformation, context: ReadContext) -> tuple[str, ...]:
    """Return other paths in the array store that a response depends on; their contents never change.

    Raises
    ------
    Invalid
        If the reference model of a rotation does not exist.
    """
    return () if wanted.rotate_to is None else (reference_path(wanted.rotate_to, context),)


def _check_values(array: LabelledArray) -> None:
    """Refuse codes and coordinates, for which arithmetic has no meaning."""
    asked = next(iter(array.dims), array.name)
    if "flag_values" in array.attributes or array.dtype.kind not in "biuf" or array.name in array.dims:
        raise invalid_parameter(
            "name",
            f"expected an array of measured or inferred values; {array.name} holds codes or coordinates of {asked}",
            "ask for it without transformations",
        )
