"""One Jupyter server a run, one Chromium a module (sync Playwright leaves a loop running)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser.lab import Browser, Server, browsing, serving


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("lab")) as server:
        yield server


@pytest.fixture(scope="module")
def browser(lab: Server) -> Iterator[Browser]:
    with browsing(lab) as browser:
        yield browser
