"""Formats of answers: one file for each, all made piece by piece or spooled to a temporary file."""

from api.arrays.formats.base import Context, Encoded, Format
from api.arrays.formats.choosing import FORMATS, FormatChoice, choose_format

__all__ = ["FORMATS", "Context", "Encoded", "Format", "FormatChoice", "choose_format"]
