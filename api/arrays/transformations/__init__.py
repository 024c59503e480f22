"""What may be done to a selected part of an array before it is written: each step makes one labelled array of another."""

from api.arrays.transformations.parameters import Transformation, depends_on, transform

__all__ = ["Transformation", "depends_on", "transform"]
