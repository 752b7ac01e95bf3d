"""The report in a real browser; skipped where there is no chromium with its chromedriver."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rm_cluster.report.evaluation import write_report
from rm_cluster.result import EvalResult
from rm_cluster.store import Folder
from tests.reports import HOSTILE, hostile_result, realistic_result

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="chromium and chromedriver are not installed"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def realistic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(realistic_result(), tmp_path_factory.mktemp("realistic"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(hostile_result(), tmp_path_factory.mktemp("hostile"))


def written(result: EvalResult, folder: Path) -> Path:
    write_report(result, Folder(str(folder)))
    return folder / "report.html"


def show(browser: Any, page: Path, width: int = 1280, scheme: str = "light") -> None:
    """Open the page as a file, at that width, and wait until its figures are drawn."""
    size = {"width": width, "height": 1200, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    prefer(browser, scheme)
    browser.get_log("browser")
    browser.get(page.as_uri())
    wait_until_drawn(browser, scheme)


def prefer(browser: Any, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def wait_until_drawn(browser: Any, scheme: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    drawn = "return document.documentElement.dataset.drawn"
    WebDriverWait(browser, 20, 0.05).until(lambda b: b.execute_script(drawn) == scheme)


def complaints(browser: Any) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser")]


def figure_sizes(browser: Any) -> list[list[float]]:
    """Width and height of what is drawn in each figure; zeros where nothing is."""
    sizes: list[list[float]] = browser.execute_script(
        """return [...document.querySelectorAll(".plot")].map((box) => {
             const svg = box.querySelector("svg");
             return svg ? [svg.getBoundingClientRect().width, svg.getBoundingClientRect().height]
                        : [0, 0]; });"""
    )
    return sizes


def column(browser: Any, table: int, position: int) -> list[str]:
    cells: list[str] = browser.execute_script(
        """const table = document.querySelectorAll("table.sortable")[arguments[0]];
           return [...table.tBodies[0].rows].map((row) => row.cells[arguments[1]].textContent);""",
        table,
        position,
    )
    return cells


def header(browser: Any, table: int, position: int) -> Any:
    from selenium.webdriver.common.by import By

    tables = browser.find_elements(By.CSS_SELECTOR, "table.sortable")
    return tables[table].find_elements(By.TAG_NAME, "th")[position]


@pytest.mark.parametrize("width", [1280, 390])
def test_every_figure_is_drawn_and_nothing_is_complained_of(
    browser: Any, realistic: Path, width: int
) -> None:
    show(browser, realistic, width)
    sizes = figure_sizes(browser)
    assert len(sizes) == 11
    assert all(w > 100 and h > 100 for w, h in sizes)
    assert complaints(browser) == []


def test_a_phone_scrolls_no_page_sideways(browser: Any, realistic: Path) -> None:
    show(browser, realistic, 390)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390


def test_a_hostile_page_is_drawn_and_runs_nothing_of_its_names(browser: Any, hostile: Path) -> None:
    show(browser, hostile, 390)
    assert browser.title == "Reward models compared"
    assert all(w > 100 and h > 50 for w, h in figure_sizes(browser))
    assert browser.execute_script("return document.querySelectorAll('img, iframe').length") == 0
    assert set(column(browser, 0, 1)) == set(HOSTILE)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    assert complaints(browser) == []


def test_pointing_at_a_hostile_name_shows_it_as_text(browser: Any, hostile: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    show(browser, hostile)
    point = browser.find_element(By.CSS_SELECTOR, ".plot .mark-symbol path")
    ActionChains(browser).move_to_element(point).perform()
    tooltip = browser.find_element(By.ID, "vg-tooltip-element")
    assert "reward model" in tooltip.text
    assert not tooltip.find_elements(By.CSS_SELECTOR, "img, script")
    assert browser.title == "Reward models compared"


def test_a_table_sorts_by_number_both_ways(browser: Any, realistic: Path) -> None:
    show(browser, realistic)
    tied = header(browser, 0, 4)  # rank, reward model, value, n, tied
    tied.find_element("tag name", "button").click()
    ascending = [int(text) for text in column(browser, 0, 4)]
    assert tied.get_attribute("aria-sort") == "ascending"
    assert ascending == sorted(ascending)
    assert ascending != sorted(ascending, key=str)  # as text 18 would come before 4
    tied.find_element("tag name", "button").click()
    assert tied.get_attribute("aria-sort") == "descending"
    assert [int(text) for text in column(browser, 0, 4)] == sorted(ascending, reverse=True)


def test_a_table_sorts_by_text_from_the_keyboard(browser: Any, realistic: Path) -> None:
    show(browser, realistic)
    names = header(browser, 0, 1)
    names.find_element("tag name", "button").send_keys("\n")
    found = column(browser, 0, 1)
    assert names.get_attribute("aria-sort") == "ascending"
    assert [name.lower() for name in found] == sorted(name.lower() for name in found)
    assert header(browser, 0, 0).get_attribute("aria-sort") is None


def test_a_choice_redraws_its_figure_and_outlives_the_night(browser: Any, realistic: Path) -> None:
    from selenium.webdriver.support.ui import Select

    show(browser, realistic)
    first = "document.querySelector('.plot:has(select)')"
    before = browser.execute_script(f"return {first}.querySelector('svg').outerHTML")
    Select(browser.execute_script(f"return {first}.querySelector('select')")).select_by_index(5)
    browser.execute_script("return new Promise((done) => requestAnimationFrame(done))")
    assert browser.execute_script(f"return {first}.querySelector('svg').outerHTML") != before
    prefer(browser, "dark")
    wait_until_drawn(browser, "dark")
    assert browser.execute_script(f"return {first}.querySelector('select').selectedIndex") == 5


def test_the_dark_has_colors_of_its_own(browser: Any, realistic: Path) -> None:
    script = """return [getComputedStyle(document.body).backgroundColor,
        document.querySelector(".plot svg text").getAttribute("fill")]"""
    show(browser, realistic, scheme="light")
    light = browser.execute_script(script)
    prefer(browser, "dark")
    wait_until_drawn(browser, "dark")
    dark = browser.execute_script(script)
    assert light == ["rgb(255, 255, 255)", "#1b1f24"]
    assert dark == ["rgb(20, 23, 28)", "#e5e7eb"]
    assert complaints(browser) == []
