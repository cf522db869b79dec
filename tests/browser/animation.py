"""The README's moving picture: ``python -m tests.browser.animation``.

The quickstart runs in a real JupyterLab, and what is on the screen is recorded for some seconds, light
and dark, into ``docs/images/``. What is committed there is what this makes.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from tests.browser.lab import REPOSITORY, OpenNotebook, browsing, serving
from tests.browser.pictures import settled

FOLDER = REPOSITORY / "docs" / "images"
QUICKSTART = "01_quickstart.ipynb"
SECONDS = 8.0
FRAMES = 5
"""A second, at most: the market moves four times."""
WIDTH, HEIGHT = 800, 640
"""Of the picture, in CSS pixels; it is twice as large, for sharp screens."""
MAX_BYTES = 1_500_000
FIRST, LAST = "The top five", "A chart"
"""The headings of what is seen."""


def run_all(notebook: OpenNotebook) -> None:
    """Run every cell of the quickstart, to the people in the last one."""
    notebook.command("notebook:run-all-cells")
    notebook.page.get_by_role("button", name="3 here").wait_for(timeout=120_000)
    notebook.command("notebook:deselect-all")


def record(notebook: OpenNotebook, theme: str) -> Path:
    """Record the screen, from ``FIRST`` on; the file."""
    page = notebook.page
    heading = page.locator(".jp-RenderedMarkdown h2", has_text=FIRST)
    heading.evaluate("node => node.closest('.jp-Cell').scrollIntoView({block: 'start'})")
    page.mouse.move(5, 5)
    settled(page)
    box = heading.locator("xpath=ancestor::*[contains(@class, 'jp-Cell')][1]").bounding_box()
    assert box is not None
    clip = {"x": box["x"], "y": box["y"], "width": WIDTH, "height": HEIGHT}
    shots: list[Image.Image] = []
    times: list[float] = []
    begin = time.monotonic()
    while (now := time.monotonic()) < begin + SECONDS:
        shot = page.screenshot(clip=clip, caret="hide", scale="device")
        shots.append(Image.open(io.BytesIO(shot)).convert("RGB"))
        times.append(now)
        page.wait_for_timeout(max(0.0, 1000 * (now + 1 / FRAMES - time.monotonic())))
    path = FOLDER / f"quickstart-{theme}.webp"
    lasting = [round(1000 * (b - a)) for a, b in zip(times, [*times[1:], now], strict=True)]
    shots[0].save(
        path,
        save_all=True,
        append_images=shots[1:],
        duration=lasting,
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
        with browser.notebook(QUICKSTART, width=920, height=900, scale=2) as notebook:
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
