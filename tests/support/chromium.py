"""A headless Chromium, and the marks of its tests."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
REQUIRED = os.environ.get("NOTION_OAUTH_TEST_BROWSER") == "required"  # a test fails if its browser or nginx is missing
CHROMIUM_MARKS = [
    pytest.mark.slow,
    pytest.mark.xdist_group("chromium"),  # one browser at a time
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER) and not REQUIRED, reason="needs chromium and chromedriver (Debian: chromium-driver)"
    ),
]
ARGUMENTS = (
    "--headless",
    "--no-sandbox",  # tests run as root in containers
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=390,844",
)


def start_chromium(directory: Path, *arguments: str) -> Chrome:
    """Start Chromium with a new user in `directory`. The caller ends it with `quit`."""
    assert CHROMIUM, "chromium is required and not installed"
    assert DRIVER, "chromedriver is required and not installed"
    options = ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (*ARGUMENTS, *arguments, f"--user-data-dir={directory}"):
        options.add_argument(argument)
    return Chrome(options=options, service=Service(DRIVER))
