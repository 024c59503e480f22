"""The story of a user in the browser, on a whole service: from a file to a picture of its latents, without any other client."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from latentry.sample import write_sample
from playwright.sync_api import Page, expect

from tests.web.browser import open_view, wait_until_ready
from worker.embedded import EmbeddedService

TRAINING_MS = 10 * 60_000
"""How long the page may take to show that a search is done."""


@dataclass(frozen=True)
class User:
    """Someone who knows what the page says, and nothing else.

    Parameters
    ----------
    page
        The page that she looks at.
    """

    page: Page

    def adds(self, file: Path) -> None:
        """Drop a file, and wait until the page shows what was understood."""
        self._follows("Add a recording")
        self.page.get_by_label("Files of spikes").set_input_files(file)
        expect(self.page.get_by_role("heading", name="What was understood")).to_be_visible()
        wait_until_ready(self.page)

    def corrects_the_bin_width(self, label: str) -> None:
        """Choose another bin width, and let the service read the file again."""
        before = self.page.url
        self.page.get_by_label("Bin width", exact=True).select_option(label=label)
        changes = self.page.get_by_role("region", name="Changes")
        changes.get_by_role("button", name="Read again").click()
        self.page.wait_for_url(lambda url: url != before)
        expect(self.page.get_by_text("bin width").first).to_be_visible()
        expect(self.page.locator(".numbers")).to_contain_text(label)
        wait_until_ready(self.page)

    def starts_a_quick_search(self, *, models: int | None = None, epochs: int | None = None) -> None:
        """Start a search with the preset `quick` from the data set, and wait until the page shows the job."""
        self.page.get_by_role("main").get_by_role("link", name="Start a search").click()
        wait_until_ready(self.page)
        self.page.get_by_role("radio", name=re.compile("quick", re.IGNORECASE)).check()
        for label, value in (("Models", models), ("Epochs of each model", epochs)):
            if value is not None:
                self.page.get_by_label(label, exact=True).fill(str(value))
        self.page.get_by_role("button", name="Start the search").click()
        self.page.wait_for_url("**/#/jobs/**")

    def watches_the_search(self) -> None:
        """Wait until curves appear and the job is done, without reloading the page."""
        main = self.page.get_by_role("main")
        expect(main.locator("figure.plot").first).to_be_visible(timeout=TRAINING_MS)
        expect(main.get_by_text("done", exact=True).first).to_be_visible(timeout=TRAINING_MS)
        expect(self.page.get_by_role("table").first).to_contain_text("trained")

    def looks_at_latents(self) -> None:
        """Open the selected model; step to the next trial by the keyboard; look at trajectories in three dimensions."""
        self.page.get_by_role("link", name="Report", exact=True).click()
        self.page.get_by_role("link", name="Look at its latents").first.click()
        self.page.wait_for_url("**/#/models/**")
        wait_until_ready(self.page)
        trial = self.page.get_by_role("spinbutton", name="Trial")
        expect(trial).to_have_value("0")
        self.page.get_by_role("main").focus()
        self.page.keyboard.press("ArrowRight")
        expect(trial).to_have_value("1")
        wait_until_ready(self.page)
        self.page.get_by_role("link", name="Trajectories", exact=True).click()
        wait_until_ready(self.page)
        expect(self.page.locator(".plot-area canvas").first).to_be_visible()
        expect(self.page.get_by_label("Colour", exact=True)).to_be_visible()

    def compares_two_models(self) -> None:
        """Compare the selected model with another one of its job."""
        self._follows("Compare")
        self.page.get_by_role("button", name=re.compile("^Add the selected model")).first.click()
        self.page.get_by_role("button", name="all models").first.click()
        self.page.get_by_role("button", name=re.compile(r"^Add model \d")).first.click()
        wait_until_ready(self.page)
        expect(self.page.get_by_role("table").first).to_contain_text(
            re.compile("bits per spike", re.IGNORECASE)
        )

    def deletes_the_data_set(self, url: str) -> None:
        """Delete a data set with everything that was made of it; Home does not list it any more."""
        self.page.goto(url)
        wait_until_ready(self.page)
        self.page.get_by_role("main").get_by_role("button", name="Delete…").first.click()
        dialog = self.page.get_by_role("dialog")
        expect(dialog).to_contain_text("1 job")
        dialog.get_by_role("button", name="Delete", exact=True).click()
        expect(self.page.get_by_role("heading", level=1)).to_have_text(re.compile("Home|Welcome"))
        dataset_id = re.findall(r"dat_\w+", url)[0]
        expect(self.page.locator(f'a[href*="{dataset_id}"]')).to_have_count(0)

    def _follows(self, link: str) -> None:
        self.page.get_by_role("navigation", name="Views").get_by_role("link", name=link, exact=True).click()
        wait_until_ready(self.page)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Reaches to eight targets, with the movement of the hand: 120 trials × 50 bins of 20 ms × 36 neurons."""
    write_sample(tmp_path / "reaches.npz")
    return tmp_path / "reaches.npz"


@pytest.mark.parametrize(
    ("models", "epochs"),
    [
        pytest.param(2, 3, id="short search"),
        pytest.param(None, None, id="quick search", marks=pytest.mark.slow),
    ],
)
def test_from_a_file_to_latents_and_back(
    page: Page, service: EmbeddedService, recording: Path, models: int | None, epochs: int | None
) -> None:
    user = User(page)
    open_view(page, service.url, "/")
    user.adds(recording)
    user.corrects_the_bin_width("40 ms")
    dataset = page.url
    user.starts_a_quick_search(models=models, epochs=epochs)
    user.watches_the_search()
    user.looks_at_latents()
    user.compares_two_models()
    user.deletes_the_data_set(dataset)
