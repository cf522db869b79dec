"""One Jupyter server per run, one Chromium for these tests (sync Playwright leaves a loop running)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import expect

from tests.browser import axe
from tests.browser.lab import Browser, Server, headless, serving
from tests.waiting import scaled

expect.set_options(
    timeout=scaled(30_000)
)  # as any other wait; by itself five seconds, on any machine


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("lab")) as server:
        yield server


@pytest.fixture(scope="package")
def chromium() -> Iterator[Chromium]:
    axe.source()  # the network may be slow, and a test has its own time for itself
    with headless() as chromium:
        yield chromium


@pytest.fixture(scope="package")
def browser(lab: Server, chromium: Chromium) -> Browser:
    return Browser(chromium, lab)
