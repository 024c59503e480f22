"""The parameters of a request that say what is done to the selected part of an array, and in which order it is done."""

from pydantic import BaseModel, Field

from api.arrays.labelled import LabelledArray
from api.arrays.transformations.align import Clock, align
from api.arrays.transformations.average import Statistic, average
from api.arrays.transformations.components import MOST_FEATURES, principal_components
from api.arrays.transformations.context import Surroundings
from api.arrays.transformations.rebin import rebin
from api.arrays.transformations.rotate import RotationKind, reference_path, rotate
from api.arrays.transformations.smooth import smooth
from api.arrays.transformations.trials import floating, with_recorded_bins
from api.arrays.transformations.wording import refusal

__all__ = ["Surroundings", "Transformation", "depends_on", "transform"]


class Transformation(BaseModel):
    """Parameters of a request that say what is done to what was selected; in this order, whatever their order in the request."""

    align_to: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="Event that becomes time 0: trial metadata with its times in seconds. Trials without it are NaN.",
    )
    window_s: str | None = Field(
        None, max_length=100, description="Seconds around the event of `align_to`, e.g. `-0.1:0.4`."
    )
    event_clock: Clock | None = Field(
        None,
        description="Clock of the event's times: the `session`'s, or the `trial`'s time axis. Told by the data unless given.",
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
        None, description="How `rotate_to` is done: `procrustes` unless given, or `cca`."
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
        description="Of `average`, which comes first: `mean` unless given. Formats of several arrays have all of mean, standard "
        "error and count.",
    )


_NEEDS = (
    ("window_s", "align_to"),
    ("align_to", "window_s"),
    ("event_clock", "align_to"),
    ("rotation", "rotate_to"),
    ("statistic", "average"),
)
"""Parameters that say nothing without another."""


def transform(
    array: LabelledArray, wanted: Transformation, surroundings: Surroundings
) -> tuple[LabelledArray, ...]:
    """The array with everything done to it that is asked for; further arrays may come beside it, such as its standard error.

    Only rotations and principal components read the values before they are asked for, since they tell how well they fit.

    Raises
    ------
    Invalid
        If it can't be done to this array; the message says what could.
    """
    for name, other in _NEEDS:
        if getattr(wanted, name) is not None and getattr(wanted, other) is None:
            raise refusal(other, f"expected {other} with {name}; there is {name} alone")
    if not any(getattr(wanted, name) is not None for name in Transformation.model_fields):
        return (array,)
    _check_values(array)
    array = with_recorded_bins(array, surroundings)
    if array.missing is not None:
        array = floating(array)  # before bins are added up or averaged
    if wanted.align_to is not None and wanted.window_s is not None:
        array = align(array, wanted.align_to, wanted.window_s, wanted.event_clock, surroundings)
    if wanted.smooth_s is not None:
        array = smooth(array, wanted.smooth_s, surroundings)
    if wanted.rebin_s is not None:
        array = rebin(array, wanted.rebin_s, surroundings)
    if wanted.rotate_to is not None:
        array = rotate(array, wanted.rotate_to, wanted.rotation or "procrustes", surroundings)
    if wanted.components is not None:
        array = principal_components(array, wanted.components)
    if wanted.average is not None:
        return average(array, wanted.average, wanted.statistic or "mean", surroundings)
    return (array,)


def depends_on(wanted: Transformation, surroundings: Surroundings) -> tuple[str, ...]:
    """Where else there is what an answer is made of: paths in the array store, whose contents never change.

    Raises
    ------
    Invalid
        If the reference model of a rotation is not there.
    """
    return () if wanted.rotate_to is None else (reference_path(wanted.rotate_to, surroundings),)


def _check_values(array: LabelledArray) -> None:
    """Refuse values that no arithmetic fits."""
    asked = next(iter(array.dims), array.name)
    if "flag_values" in array.attributes or array.dtype.kind not in "biuf" or array.name in array.dims:
        raise refusal(
            "name",
            f"expected an array of measured or inferred values; {array.name} holds codes or coordinates of {asked}",
            "ask for it without transformations",
        )
