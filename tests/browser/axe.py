"""axe-core, from npm, run over the widgets of a page."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

from playwright.sync_api import Page

from tests.browser.lab import REPOSITORY

VERSION = "4.10.3"


@cache
def source() -> str:
    """axe-core's one file, installed once into ``.cache``."""
    folder = REPOSITORY / ".cache" / "npm"
    script: Path = folder / "node_modules" / "axe-core" / "axe.min.js"
    if not script.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["npm", "install", "--no-save", "--prefix", str(folder), f"axe-core@{VERSION}"],
            check=True,
            capture_output=True,
        )
    return script.read_text("utf-8")


def findings(page: Page, selector: str = ".nrt") -> list[str]:
    """The serious and critical findings inside ``selector``, one line each."""
    if not page.evaluate("typeof axe === 'object'"):
        page.evaluate(source() + "; null")
    found = page.evaluate(
        "selector => axe.run({include: [[selector]]}, {resultTypes: ['violations']})",
        selector,
    )
    return [
        f"{v['id']}: {node['target']} {node['failureSummary']}"
        for v in found["violations"]
        if v["impact"] in ("serious", "critical")
        for node in v["nodes"]
    ]
