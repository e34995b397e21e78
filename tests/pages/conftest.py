"""
A real browser for the pages that a reader opens, as a phone and as a desktop.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

PROGRAMS = ("chromium", "chromedriver")
# A screen narrower than this is a phone's.
TABLET = 600
# The browser makes no requests of its own.
QUIET = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
)


@pytest.fixture(scope="session")
def browser() -> Iterator[webdriver.Chrome]:
    """
    Headless Chromium.
    """
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        message = (
            f"{' and '.join(missing)} not found: apt-get install chromium chromium-driver, or `nox -s pages`"
        )
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in QUIET:
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser: webdriver.Chrome, tmp_path: Path) -> Callable[..., webdriver.Chrome]:
    """
    Open a page at so many pixels across, in light or dark.
    """

    def show(page: str, width: int, scheme: str = "light") -> webdriver.Chrome:
        file = tmp_path / "page.html"
        file.write_text(page, encoding="utf-8")
        screen = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < TABLET}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        browser.get(file.as_uri())
        return browser

    return show
