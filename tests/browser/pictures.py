"""Pictures of every widget in every state, light and dark: ``python -m tests.browser.pictures``.

Written to ``.pictures/`` for looking at; nothing compares them. Names on the command line choose
some of them: ``python -m tests.browser.pictures health grid``. The beginning of a notebook's name
runs that one and takes the whole page, in pieces: ``python -m tests.browser.pictures 07 08``.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

from tests.browser.lab import REPOSITORY, Browser, OpenNotebook, browsing, serving
from tests.browser.scenes import HEALTH
from tests.waiting import scaled

NOTEBOOKS = REPOSITORY / "notebooks"
FOLDER = REPOSITORY / ".pictures"
SETUP = "from tests.browser.scenes import *"


@dataclass(frozen=True)
class Picture:
    """What to show, and what to do before the shot."""

    name: str
    source: str
    click: tuple[str, ...] = ()
    double: tuple[str, ...] = ()
    right: tuple[str, ...] = ()
    choose: str = ""
    """An item of the menu."""
    hover: bool = False
    """The pointer stays where it was."""


PICTURES = [
    *[
        Picture(f"health-{state}", f"health('{state}')")
        for state in ("healthy", "polling", "stale", "offline", "closed")
    ],
    *[
        Picture(f"health-{state}-open", f"health('{state}')", click=(".nrt-pill",))
        for state in HEALTH
    ],
    Picture(
        "health-compared",
        "health('drifting', '48,211 rows of 3 tables compared in 1.2 s: no row differed.')",
        click=(".nrt-pill",),
    ),
    Picture("health-details", "health('offline')", click=(".nrt-pill", ".nrt-more > summary")),
    Picture("queue-empty", "queue(0)"),
    Picture("queue-waiting", "queue(2)"),
    Picture("queue-failed-open", "queue(5)", click=(".nrt-pill",)),
    Picture("presence-few", "presence(3)"),
    Picture("presence-many-open", "presence(14)", click=(".nrt-pill",)),
    Picture("statusbar", "status_bar()"),
    Picture("statusbar-behind", "status_bar('behind')"),
    Picture("statusbar-open", "status_bar()", click=('[data-part="queue"] .nrt-pill',)),
    Picture("statusbar-health", "status_bar()", click=('[data-part="health"] .nrt-pill',)),
    Picture("notes", "notes()"),
    Picture("chart-line", "chart()"),
    Picture("chart-lines", "chart(y=['bid', 'ask'], last=400)"),
    Picture("chart-area", "chart(y='volume', kind='area', last=120)"),
    Picture("chart-bar", "chart('venue', 'volume', kind='bar', last=3)"),
    Picture("chart-point", "chart('bid', 'volume', kind='point', color='venue', points=300)"),
    Picture("chart-hist", "chart('at', 'volume', kind='hist')"),
    Picture("grid", "grid()"),
    Picture("grid-marked", "grid(state='marked')"),
    Picture("grid-loading", "grid(state='loading')"),
    *[
        Picture(f"grid-{state}", f"grid({rows}, '{state}', columns=HERO, height=240)")
        for state, rows in (
            ("comparing", 1000),
            ("polling", 1000),
            ("offline", 1000),
            ("error", 1000),
            ("hidden", 0),
        )
    ],
    Picture("grid-empty", "grid(0, columns=HERO)"),
    Picture("grid-title", "grid(5, columns=HERO, title='What we hold, at the prices of now')"),
    Picture(
        "grid-failed",
        "grid(8, state='marked', columns=HERO)",
        click=(".slick-cell:has(.nrt-is-failed)",),
    ),
    Picture(
        "grid-pending",
        "grid(8, state='marked', columns=HERO)",
        click=(".slick-cell:has(.nrt-is-pending)",),
    ),
    Picture("grid-small", "grid(3, columns=['id', 'symbol', 'price', 'notes'], height=130)"),
    Picture(
        "grid-conflict",
        "grid(8, state='marked', columns=HERO)",
        click=(".slick-cell:has(.nrt-is-conflict)",),
    ),
    Picture(
        "grid-row-conflict",
        "GridWidget(disputed(), columns=HERO)",
        click=(".nrt-disputed .l0",),
    ),
    Picture("grid-closed", "closed()"),
    Picture("grid-new-row", "grid(6)", click=('[data-act="add"]',)),
    Picture(
        "grid-deleted-row",
        "grid(8, columns=HERO)",
        click=('[data-row="3"] .l2', '[data-act="remove"]'),
    ),
    Picture("grid-editor", "grid()", double=(".slick-row:nth-child(3) .l4",)),
    Picture("grid-styled", "styled()"),
    Picture("grid-grouped", "grid(40, columns=HERO, group='status', totals={'quantity': 'sum'})"),
    Picture("grid-menu", "styled()", right=('[data-row="2"] .l3',)),
    Picture("grid-unread", "unread()"),
    Picture("grid-date-editor", "grid(8, columns=HERO)", double=('[data-row="2"] .l6',)),
    Picture("past-grid-live", "past_grid()"),
    Picture("past-grid", "past_grid(20)"),
    Picture("past-grid-gap", "past_grid(38)"),
    Picture("past-chart-live", "past_chart()"),
    Picture("past-chart", "past_chart(20)"),
    Picture("past-menu", "past_grid()", right=('[data-row="2"] .l4',)),
    *[
        Picture(
            f"history-{name}",
            source,
            right=('[data-row="2"] .l4',),
            choose=f"History of the {about}",
        )
        for name, source, about in (
            ("cell", "past_grid(by='notes')", "cell"),
            ("row", "past_grid(by='notes')", "row"),
            ("none", "grid(8, columns=HERO, height=240)", "cell"),
        )
    ],
    Picture("chart-saves", "chart()", click=(".nrt-chart",), hover=True),
    Picture("grid-long-editor", "grid()", double=(".slick-row:nth-child(3) .l8",)),
]


def settled(page: Page) -> None:
    """Wait until nothing moves any more, and has been painted."""
    page.wait_for_function(
        "() => document.getAnimations().every(one => one.playState !== 'running' ||"
        " one.effect.getComputedTiming().iterations === Infinity)"
    )
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 120)))")


def take(notebook: OpenNotebook, picture: Picture, theme: str) -> None:
    """Show one picture in a cell of its own and shoot the cell's output."""
    page = notebook.page
    notebook.run(f"widget = {picture.source}; display(widget)")
    output = page.locator(".jp-OutputArea-output .nrt").last
    output.wait_for()
    output.locator(
        ".nrt-pill, [data-drawn], .nrt-notes li, .nrt-status:not(:empty)"
    ).first.wait_for()
    settled(page)
    for selector in picture.click:
        output.locator(selector).first.click()
    for selector in picture.double:
        output.locator(selector).first.dblclick()
    for selector in picture.right:
        output.locator(selector).first.click(button="right")
    if picture.choose:
        output.get_by_role("menuitem", name=picture.choose).click()
    if not picture.hover:
        page.mouse.move(5, 5)
    settled(page)
    boxes = [
        box
        for each in (output, *output.locator(".nrt-pop, .nrt-menu").all())
        if (box := each.bounding_box())
    ]
    box = boxes[0]
    height = max(one["y"] + one["height"] for one in boxes) - box["y"]  # with a panel over the page
    pad, top = 8, 5  # the code's frame is just above
    page.screenshot(
        path=FOLDER / f"{picture.name}-{theme}.png",
        clip={
            "x": max(0, box["x"] - pad),
            "y": max(0, box["y"] - top),
            "width": min(box["width"], 960) + 2 * pad,
            "height": height + top + pad + 8,
        },
    )
    notebook.command("notebook:delete-cell")


def hero(notebook: OpenNotebook, theme: str) -> None:
    """Three widgets in one cell, as on the README's first screen."""
    page = notebook.page
    notebook.run("hero()")
    page.locator(".nrt-grid .nrt-is-conflict").wait_for()
    page.locator(".nrt-chart canvas").wait_for()
    page.mouse.move(5, 5)
    settled(page)
    boxes = [box for each in page.locator(".nrt").all() if (box := each.bounding_box())]
    top, bottom = boxes[0]["y"] - 5, boxes[-1]["y"] + boxes[-1]["height"] + 6
    clip = {
        "x": boxes[0]["x"] - 8,
        "y": top,
        "width": boxes[1]["width"] + 14,
        "height": bottom - top,
    }
    page.screenshot(path=FOLDER / f"hero-{theme}.png", clip=clip)
    notebook.command("notebook:delete-cell")


PIECE = 1500
"""Pixels of a page's height in one picture."""


def whole_page(browser: Browser, name: str) -> None:
    """Run a notebook and take all of it, light and dark."""
    with browser.notebook(name) as notebook:
        page = notebook.page
        page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
        notebook.command("notebook:run-all-cells")
        page.wait_for_function(  # every cell, and what each shows has come
            "() => window.jupyterapp.shell.currentWidget.content.widgets.every("
            "({ model }) => model.type !== 'code' || model.executionState === 'idle')",
            timeout=scaled(240_000),
        )
        page.keyboard.press("Escape")
        for widget in page.locator(".nrt").all():  # one that nobody has seen yet shows nothing
            drawn = (
                ".nrt-silent:not(:empty), .slick-row, [data-total='0'], [data-drawn], [data-state], "
                ".nrt-avatar"
            )
            widget.scroll_into_view_if_needed()
            widget.locator(drawn).first.wait_for(state="attached", timeout=scaled(60_000))
        height = page.locator(".jp-WindowedPanel-outer").evaluate("node => node.scrollHeight")
        page.set_viewport_size({"width": 1100, "height": height + 160})
        page.wait_for_function(
            "() => document.querySelector('.jp-WindowedPanel-outer').clientHeight >= innerHeight - 160"
        )
        page.locator(".jp-WindowedPanel-outer").evaluate("node => node.scrollTo(0, 0)")
        for theme in ("light", "dark"):
            notebook.theme(dark=theme == "dark")
            page.wait_for_timeout(600)  # the theme is drawn; what moves, moves on
            shot = Image.open(io.BytesIO(page.screenshot()))
            for piece, top in enumerate(range(0, shot.height, PIECE), 1):
                part = shot.crop((0, top, shot.width, min(shot.height, top + PIECE)))
                part.save(FOLDER / f"{name.split('_')[0]}-{theme}-{piece}.png")
        if notebook.console:
            print(name, *notebook.console, sep="\n", file=sys.stderr)


def notebooks(names: list[str]) -> None:
    """Every notebook whose name begins with one of ``names``."""
    FOLDER.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as root,
        serving(Path(root)) as server,
        browsing(server) as browser,
    ):
        shutil.copytree(NOTEBOOKS, root, dirs_exist_ok=True)
        for path in sorted(NOTEBOOKS.glob("*.ipynb")):
            if path.name.startswith(tuple(names)):
                whole_page(browser, path.name)


def main(names: list[str]) -> None:
    FOLDER.mkdir(exist_ok=True)
    if names and all(name[0].isdigit() for name in names):
        notebooks(names)
        return
    chosen = [p for p in PICTURES if not names or any(p.name.startswith(n) for n in names)]
    with (
        tempfile.TemporaryDirectory() as root,
        serving(Path(root)) as server,
        browsing(server) as browser,
        browser.notebook(scale=2) as notebook,
    ):
        notebook.run(SETUP)
        for theme in ("light", "dark"):
            notebook.theme(dark=theme == "dark")
            for picture in chosen:
                take(notebook, picture, theme)
            if not names or "hero" in names:
                hero(notebook, theme)
        if notebook.console:
            print("\n".join(notebook.console), file=sys.stderr)
    print(f"{2 * len(chosen)} pictures in {FOLDER}")


if __name__ == "__main__":
    main(sys.argv[1:])
