"""Record the README's animation: ``python -m tests.browser.animation``.

The quickstart runs in a real JupyterLab, and what is on the screen is recorded for some seconds, light
and dark, into ``docs/images/``. What is committed there is what this makes.
"""

from __future__ import annotations

import base64
import io
import shutil
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from PIL import Image

from tests.browser.lab import REPOSITORY, OpenNotebook, browsing, serving
from tests.browser.pictures import settled
from tests.waiting import scaled

FOLDER = REPOSITORY / "docs" / "images"
QUICKSTART = "01_quickstart.ipynb"
SECONDS = 8.0
FRAMES = 6
"""A second, at most: the market moves eight times."""
WIDTH, HEIGHT, SCALE = 800, 640, 2
"""Of the picture, in CSS pixels; it is twice as large, for sharp screens."""
PAGE = {"width": 876, "height": 900}
MAX_BYTES = 1_500_000
FIRST = "The top five"
"""The heading below which the picture begins."""


def run_all(notebook: OpenNotebook) -> None:
    """Run every cell of the quickstart, to the people in the last one."""
    notebook.command("notebook:run-all-cells")
    people = notebook.page.locator(".jp-CodeCell").last.locator(".nrt-pill")
    people.scroll_into_view_if_needed(timeout=scaled(120_000))  # what is not seen is not told
    people.filter(has_text="3 here").wait_for()
    notebook.command("notebook:deselect-all")


def place(notebook: OpenNotebook) -> dict[str, float]:
    """Bring the top five and the chart below them on the screen; where they are."""
    page = notebook.page
    heading = page.locator(f".jp-Cell:has(h2:has-text('{FIRST}'))")
    cell = page.locator(f".jp-Cell:has(h2:has-text('{FIRST}')) + .jp-Cell")
    heading.evaluate("node => node.scrollIntoView({block: 'start'})")
    page.mouse.move(5, 5)
    cell.locator(".slick-row").nth(4).wait_for()
    page.locator(".nrt-chart canvas").first.wait_for()
    settled(page)
    box = cell.bounding_box()
    assert box is not None
    return {"x": box["x"], "y": box["y"], "width": WIDTH, "height": HEIGHT}


def record(notebook: OpenNotebook, theme: str) -> Path:
    """Record the screen for `SECONDS`; the file."""
    clip = place(notebook)
    chromium = notebook.page.context.new_cdp_session(notebook.page)
    # A session of its own knows nothing of Playwright's scale, and a capture would reset it.
    metrics = {**PAGE, "deviceScaleFactor": SCALE, "mobile": False}
    chromium.send("Emulation.setDeviceMetricsOverride", metrics)
    shots: list[Image.Image] = []
    times: list[float] = []
    begin = time.monotonic()
    while (now := time.monotonic()) < begin + SECONDS:
        # Several a second: Playwright's own screenshots take too long for that.
        options = {"format": "png", "optimizeForSpeed": True, "clip": {**clip, "scale": 1}}
        shot = chromium.send("Page.captureScreenshot", options)
        shots.append(Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB"))
        times.append(now)
        notebook.page.wait_for_timeout(max(0.0, 1000 * (now + 1 / FRAMES - time.monotonic())))
    path = FOLDER / f"quickstart-{theme}.webp"
    shots[0].save(
        path,
        save_all=True,
        append_images=shots[1:],
        duration=[round(1000 * (b - a)) for a, b in pairwise([*times, now])],
        loop=0,
        lossless=True,
        quality=80,
        method=4,
        minimize_size=True,
    )
    return path


def main() -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    too_large = False
    with (
        tempfile.TemporaryDirectory() as root,
        serving(Path(root)) as server,
        browsing(server) as browser,
    ):
        shutil.copy(REPOSITORY / "notebooks" / QUICKSTART, root)
        with browser.notebook(QUICKSTART, **PAGE, scale=SCALE) as notebook:
            run_all(notebook)
            for theme in ("light", "dark"):
                notebook.theme(dark=theme == "dark")
                path = record(notebook, theme)
                size = path.stat().st_size
                too_large |= size > MAX_BYTES
                print(f"{path.relative_to(REPOSITORY)}: {size / 1000:,.0f} kB")
            if notebook.console:
                print("\n".join(notebook.console), file=sys.stderr)
    return int(too_large)


if __name__ == "__main__":
    sys.exit(main())
