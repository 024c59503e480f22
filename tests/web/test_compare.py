"""Models side by side in a browser."""

import re

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.web.browser import Watch, open_view
from tests.web.service import SeededService
from tests.web.test_model import DRAWING


@pytest.mark.slow
def test_models_are_compared_in_scores_trials_and_space(page: Page, watch: Watch, lab: SeededService) -> None:
    watch.allow(DRAWING)
    ids = [lab.ids["model"], lab.ids["model_leaking"]]
    open_view(page, lab.url, f"/compare?models={','.join(ids)}")
    first, second = (httpx.get(f"{lab.url}/v1/models/{one}").json() for one in ids)
    row = page.get_by_role("row", name=re.compile("Held-out samples, validation trials"))
    for one in (first, second):
        expect(row).to_contain_text(f"{one['scores']['sv_bits_per_spike_valid']:.3f}")
    is_comparable = first["scored_on"] == second["scored_on"]
    expect(
        page.get_by_text("can be compared" if is_comparable else "Not all losses can be compared").first
    ).to_be_visible()
    query = {"average": "condition", "rotate_to": ids[0], "format": "json"}
    rotated = httpx.get(f"{lab.url}/v1/models/{ids[1]}/arrays/factors", params=query).json()
    explained = f"explain {100 * rotated['attributes']['variance_explained']:.0f} %"
    expect(page.get_by_text(explained)).to_be_visible()
    expect(page.get_by_text("Rates of neuron 0 in trial 0")).to_be_visible()


@pytest.mark.slow
def test_jobs_are_searched_for_models_to_compare(page: Page, watch: Watch, lab: SeededService) -> None:
    watch.allow(DRAWING)
    open_view(page, lab.url, "/compare")
    for text in ("AutoLFADS on reaches", "random, little dropout"):
        page.get_by_label("Find jobs", exact=True).fill(text)
        page.get_by_role("button", name=f"Add the selected model of {text}").click()
        expect(page.get_by_role("button", name=f"Add the selected model of {text}")).to_have_count(0)
    expect(page.get_by_role("heading", name="Scores")).to_be_visible()
    assert {lab.ids["model"], lab.ids["model_leaking"]} == set(re.findall(r"mod_\w+", page.url))
