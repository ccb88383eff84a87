"""The report in a browser: no request, no error, controls that work, nothing that axe-core finds, no column cut.
`make test-report` (REPORT_ALL=1) looks at two widths, light and dark; `make test` at one of each.

The browser is the chromium of the system; without it these tests skip.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from tests.test_report import page_of, write_experiment

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
SIZES_PX = [1280, 390]
LOOKS = [(w, s) for w in SIZES_PX for s in ("light", "dark")] if "REPORT_ALL" in os.environ else [(390, "dark")]
LOSS_MARKS = "figure[id$='-loss'] .mark-symbol.role-mark path"
PRINT_PX = 1030  # A4 across, without its margins
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def report_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight functions, two of them with two seeds, and a tree."""
    data_dir = tmp_path_factory.mktemp("report")
    functions = ["badge", "entropy", "variance", "lcmd", "uherding", "k_center", "typiclust", "random"]
    given = {"smooth-or-featured_smooth": 9, "smooth-or-featured_disk": 30, "bar_yes": 20, "bar_no": 10}
    for n, acquisition in enumerate(functions):
        for seed in range(2 if acquisition in ("badge", "random") else 1):
            write_experiment(
                data_dir, f"{acquisition}{seed}", (3.0 + seed / 10, 2.5 - n / 20), acquisition=acquisition, seed=seed,
                task="tree", votes=[{}, {"g0-0": given}], dropped=[{"id_str": f"d{seed}", "reason": "truncated"}],
            )  # fmt: skip
    write_experiment(data_dir, "a_repeat_whose_name_is_longer_than_a_line_of_a_phone", task="tree")
    page_of(data_dir)
    return data_dir / "out" / "report.html"


class Visit:
    """A page with what it asked for, and what went wrong."""

    def __init__(self, browser: Browser, path: Path, **options: Any) -> None:
        self.page: Page = browser.new_page(**options)
        self.page.set_default_timeout(20_000)
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(path.as_uri())

    def draw_all(self) -> None:
        """Draw every chart, as if all were in view."""
        self.page.evaluate("Promise.all([...document.querySelectorAll('figure.chart')].map(draw)).then(() => 0)")

    def check(self) -> None:
        """It asked for nothing but itself, and said nothing."""
        assert {url.split(":")[0] for url in self.requests} <= {"file", "data"}
        assert self.errors == []
        self.page.close()


def marks(page: Page, chart: str) -> int:
    """How many markers a chart shows."""
    return page.locator(f"figure[id$='-{chart}'] .mark-symbol.role-mark path").count()


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_nothing_is_inaccessible_or_fetched(width: int, scheme: Any, browser: Browser, report_path: Path) -> None:
    visit = Visit(browser, report_path, viewport={"width": width, "height": 900}, color_scheme=scheme)
    visit.draw_all()
    visit.page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    found = Axe().run(visit.page)
    assert found.response["violations"] == []
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width, "it scrolls sideways"
    visit.check()


def test_controls_and_hover(browser: Browser, report_path: Path) -> None:
    visit = Visit(browser, report_path, viewport={"width": 1280, "height": 900})
    page = visit.page
    visit.draw_all()
    shown = marks(page, "loss")
    assert shown == 8 * 2
    page.get_by_label("BADGE", exact=True).uncheck()
    page.wait_for_function(
        "document.querySelectorAll('figure[id$=\"-loss\"] .mark-symbol.role-mark path').length == 14"
    )
    page.get_by_label("BADGE", exact=True).check()
    page.wait_for_function(
        "document.querySelectorAll('figure[id$=\"-loss\"] .mark-symbol.role-mark path').length == 16"
    )

    error = page.locator("figure[id$='-error']")
    before = error.locator("svg").inner_html()
    error.get_by_role("combobox").select_option("bar")
    page.wait_for_function(
        "(old) => document.querySelector(\"figure[id$='-error'] svg\")?.innerHTML != old", arg=before
    )
    loss = page.locator("figure[id$='-loss']")
    before = loss.locator(".role-axis-label").first.inner_html()
    loss.get_by_label("logarithmic axes").check()
    page.wait_for_timeout(300)
    assert loss.locator(".role-axis-label").first.inner_html() != before

    assert page.locator("#tip").is_hidden()
    loss.locator(".mark-symbol.role-mark path").first.hover(force=True)
    page.wait_for_function("!document.getElementById('tip').hidden")
    assert "function: " in page.locator("#tip").inner_text() and "seeds: 2" in page.locator("#tip").inner_text()
    visit.check()


def test_without_scripts_it_has_pictures_and_no_controls(browser: Browser, report_path: Path) -> None:
    visit = Visit(browser, report_path, java_script_enabled=False)
    assert marks(visit.page, "loss") == 8 * 2
    assert not any(control.is_visible() for control in visit.page.locator("input, select").all())
    visit.check()


def test_print_shows_every_column_and_detail(browser: Browser, report_path: Path) -> None:
    visit = Visit(browser, report_path, viewport={"width": PRINT_PX, "height": 700})
    visit.page.emulate_media(media="print")
    visit.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    right = "[...document.querySelectorAll('th, td')].map((cell) => cell.getBoundingClientRect().right)"
    assert max(visit.page.evaluate(right)) <= PRINT_PX
    assert visit.page.evaluate("[...document.querySelectorAll('details')].every((d) => d.open)")
    assert visit.page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
    visit.check()
