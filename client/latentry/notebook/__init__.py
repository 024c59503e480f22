"""What a notebook shows of what the service keeps: HTML and SVG without scripts, of text that is escaped."""

from latentry.notebook.pages import (
    MOST_CURVES,
    array_html,
    arrays_html,
    curve_html,
    dataset_html,
    inference_html,
    job_html,
    model_html,
    shown,
)

__all__ = [
    "MOST_CURVES",
    "array_html",
    "arrays_html",
    "curve_html",
    "dataset_html",
    "inference_html",
    "job_html",
    "model_html",
    "shown",
]
