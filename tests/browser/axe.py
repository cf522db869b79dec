"""axe-core, from npm, run over the widgets of a page."""

from __future__ import annotations

import subprocess
import tempfile
from functools import cache
from pathlib import Path

from playwright.sync_api import Page

from tests.browser.lab import REPOSITORY
from tests.waiting import scaled

VERSION = "4.10.3"


@cache
def source() -> str:
    """axe-core's one file, fetched once into ``.cache``."""
    script = REPOSITORY / ".cache" / f"axe-{VERSION}.min.js"
    if not script.exists():
        script.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=script.parent) as folder:
            subprocess.run(
                ["npm", "install", "--no-save", "--prefix", folder, f"axe-core@{VERSION}"],
                check=True,
                capture_output=True,
                timeout=scaled(300),
            )
            fetched = Path(folder, "node_modules", "axe-core", "axe.min.js")
            fetched.replace(script)  # in one go: another worker may be doing the same
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
