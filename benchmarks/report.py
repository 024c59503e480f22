"""What all benchmarks share: the command line's parser, tables, and the description of the machine."""

import argparse
import os
import platform
from collections.abc import Sequence
from datetime import date
from typing import Any

import torch


def parser(description: str, quick: str = "") -> argparse.ArgumentParser:
    """Return a parser with the options ``--json`` and, if it has a help text, ``--quick``."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--json", action="store_true", help="print lines of JSON alone")
    if quick:
        made.add_argument("--quick", action="store_true", help=quick)
    return made


def markdown_table(rows: Sequence[Sequence[Any]]) -> str:
    """Return a header and rows as a Markdown table."""

    def text(value: Any) -> str:
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    head, *body = [[text(value) for value in row] for row in rows]
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine() -> str:
    """Return the date and a description of the machine."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    return f"{date.today()}, {device}, {platform.machine()}, torch {torch.__version__}"
