"""The first minute in a real JupyterLab: the README's first block, pasted into a fresh notebook."""

from __future__ import annotations

import re

import pytest

from tests.browser.lab import REPOSITORY, Browser
from tests.waiting import scaled

pytestmark = [pytest.mark.browser, pytest.mark.slow]

README = (REPOSITORY / "README.md").read_text()
FIRST = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)[0]


def test_the_first_block_of_the_readme_is_a_grid_that_goes_on_moving(browser: Browser) -> None:
    with browser.notebook() as notebook:
        grid = notebook.show(FIRST)
        grid.locator(".slick-row").nth(4).wait_for(timeout=scaled(30_000))

        def shown() -> str:
            return str(grid.locator(".slick-viewport").all_inner_texts())

        seen = {shown()}
        for _ in range(3):
            notebook.page.wait_for_function(
                "([grid, old]) => grid.innerText !== old",
                arg=[grid.element_handle(), grid.inner_text()],
                timeout=scaled(10_000),
            )
            seen.add(shown())
        assert len(seen) > 2
        assert notebook.console == []
