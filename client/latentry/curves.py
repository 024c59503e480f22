"""The learning curve of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from latentry.documents import CurvePoint

if TYPE_CHECKING:
    from numpy.typing import NDArray


class LearningCurve(Sequence[CurvePoint]):
    """Every epoch of a model so far.

    ``curve[-1]`` is the last epoch, ``curve["sv_loss"]`` one loss over all epochs.

    Parameters
    ----------
    points
        As the service answered them.
    """

    def __init__(self, points: list[CurvePoint]) -> None:
        self.points = points

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: Any) -> Any:
        """An epoch by its position, or a number over all epochs by its name (NaN where there is none)."""
        if not isinstance(index, str):
            return self.points[index]
        return self.values(index)

    def values(self, name: str) -> NDArray[Any]:
        """A number over all epochs; NaN where there is none."""
        import numpy as np

        points: Any = self.points
        return np.array([np.nan if point[name] is None else point[name] for point in points], float)

    def __repr__(self) -> str:
        return f"<learning curve of {len(self)} epochs>"

    def _repr_html_(self) -> str:
        from latentry.notebook import curve_html

        return curve_html(self)
