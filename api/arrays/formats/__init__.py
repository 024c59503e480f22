"""Formats of answers: one file for each, all made piece by piece."""

from api.arrays.formats.base import Encoded, Format
from api.arrays.formats.choosing import FORMATS, FormatChoice, choose_format

__all__ = ["FORMATS", "Encoded", "Format", "FormatChoice", "choose_format"]
