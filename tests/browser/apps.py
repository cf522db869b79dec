"""A real marimo and a real Voila in a real Chromium.

In: cells. Out: a server that has them as its notebook or app, and pages on it. Its kernels find the
project by ``$SUPABASE_URL`` and ``$SUPABASE_KEY``, as a deployed app does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser as Chromium
from playwright.sync_api import BrowserContext, ConsoleMessage, Page

from notebook_rt.local import LocalStack
from tests.browser.lab import server_process, surroundings
from tests.ports import free_port
from tests.waiting import scaled

SETUP = """
import json, pathlib, time
import notebook_rt as nrt
from tests.waiting import scaled

rt = nrt.connect(queue_path={path!r}, options=nrt.Options(backoff_base=0.2, backoff_max=0.5))
frame = rt.table({table!r}, order="id")
_ = frame.wait(scaled(20))
"""
THEIRS = ("@jupyterlab/docregistry", "https://cdn.")
"""Errors of Voila's own page, with nothing of ours on it: parts of its Lab, sheets."""

POLICY = """
addEventListener("DOMContentLoaded", () => {
  const meta = document.createElement("meta");
  meta.httpEquiv = "Content-Security-Policy";
  meta.content = %s;
  document.head.prepend(meta);
});
"""


class AppPage:
    """One page of an app, and what its console said."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.console: list[str] = []
        page.on("console", self._told)
        page.on("pageerror", lambda error: self.console.append(str(error)))

    def _told(self, message: ConsoleMessage) -> None:
        text = f"{message.text} {message.location.get('url', '')}"
        if message.type == "error" and not any(theirs in text for theirs in THEIRS):
            self.console.append(text)


class App:
    """A server with one notebook."""

    def __init__(self, url: str, context: BrowserContext) -> None:
        self._url = url
        self._context = context

    def open(self, policy: str = "") -> AppPage:
        """A new visitor, of a page with this Content-Security-Policy."""
        page = self._context.new_page()
        page.set_default_timeout(scaled(30_000))
        opened = AppPage(page)
        if policy:
            page.add_init_script(POLICY % json.dumps(policy))
        # Voila's page is loaded once a kernel has started and run the cells.
        page.goto(self._url, timeout=scaled(90_000))
        return opened


@contextmanager
def showing(
    how: Literal["marimo edit", "marimo run", "voila"],
    cells: Sequence[str],
    stack: LocalStack,
    chromium: Chromium,
    root: Path,
) -> Iterator[App]:
    """The notebook of ``cells`` served from ``root`` over ``stack``."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    env = {
        **surroundings(root),
        "XDG_CONFIG_HOME": str(root / ".home"),
        "SUPABASE_URL": stack.url,
        "SUPABASE_KEY": stack.anon_key,
    }
    if how == "voila":
        (root / "app.ipynb").write_text(_ipynb(cells))
        command = ["voila", "app.ipynb", "--no-browser", f"--port={port}", "--Voila.ip=127.0.0.1"]
        probe = f"{url}/voila/static/"
    else:
        (root / "app.py").write_text(_marimo(cells))
        options = ["--headless", "--no-token", "--no-sandbox", "--host=127.0.0.1", f"--port={port}"]
        # A visitor who has closed the page is gone after a second.
        options += ["--session-ttl=1"] if how == "marimo run" else ["--skip-update-check"]
        command = ["marimo", "-q", how.split()[1], "app.py", *options]
        probe = f"{url}/health"
    with server_process([sys.executable, "-m", *command], env, root, probe):
        # One for all visitors, whose kernels are their own: they share what is loaded and compiled.
        context = chromium.new_context(viewport={"width": 1100, "height": 1100})
        yield App(url, context)
        context.close()


def _ipynb(cells: Sequence[str]) -> str:
    code = [
        {
            "cell_type": "code",
            "id": f"c{number}",
            "source": source.strip(),
            "metadata": {},
            "outputs": [],
            "execution_count": None,
        }
        for number, source in enumerate(cells)
    ]
    kernel = {"name": "python3", "display_name": "Python 3"}
    return json.dumps(
        {"cells": code, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    )


def _marimo(cells: Sequence[str]) -> str:
    """The file that marimo keeps a notebook in; what a cell takes of others, it finds by itself."""
    lines = ["import marimo", "app = marimo.App()"]
    for source in cells:
        body = "\n".join(f"    {line}".rstrip() for line in source.strip().splitlines())
        lines.append(f"@app.cell\ndef _():\n{body}\n    return")
    return "\n\n".join(lines) + "\n"
