"""A real JupyterLab or Notebook 7 in a real Chromium, for tests and pictures.

``serving`` starts a server on loopback with settings and data of its own; ``Browser`` opens
notebooks in it and runs cells through the front end's own commands, so that what is tested is what
a user gets: kernel, comm, front end, pixels.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import Browser as Chromium
from playwright.sync_api import ConsoleMessage, Error, Locator, Page, TimeoutError, sync_playwright

from tests.ports import free_port
from tests.waiting import scaled, until

REPOSITORY = Path(__file__).parents[2]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SETTINGS = {
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
    # Off by default; on, a saved notebook holds all that it ever could.
    "@jupyter-widgets/jupyterlab-manager/plugin": {"saveState": True},
}
RUN = """
async ([source, wait]) => {
  const app = window.jupyterapp;
  const panel = app.shell.currentWidget;
  await panel.sessionContext.ready;
  const notebook = panel.content;
  notebook.activeCellIndex = notebook.widgets.length - 1;
  await app.commands.execute("notebook:insert-cell-below");
  const cell = notebook.activeCell;
  cell.model.sharedModel.setSource(source);
  const done = app.commands.execute("notebook:run-cell");
  if (!wait) return [notebook.widgets.indexOf(cell), []];
  await done;
  return [notebook.widgets.indexOf(cell), cell.model.outputs.toJSON()];
}
"""
ASK = """
async source => {
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  const future = kernel.requestExecute({ code: source, store_history: false });
  let text = "";
  future.onIOPub = ({ header, content }) => {
    if (header.msg_type === "stream") text += content.text;
  };
  const reply = await future.done;
  if (reply.content.status !== "ok") throw new Error(reply.content.traceback.join("\\n"));
  return text;
}
"""


@dataclass(frozen=True)
class Server:
    """A running Jupyter server."""

    url: str
    token: str
    root: Path
    app: Literal["lab", "notebook"]


def chromium_path() -> str:
    """The system's Chromium."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        raise RuntimeError("no Chromium found; install the system package `chromium`")
    return found


def surroundings(root: Path) -> dict[str, str]:
    """The environment of a server that finds nothing of this machine's user, and this package."""
    home = root / ".home"
    return {
        **os.environ,
        "HOME": str(home),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "IPYTHONDIR": str(home / "ipython"),
        "PYTHONPATH": str(REPOSITORY),
    }


@contextmanager
def server_process(
    command: list[str], env: dict[str, str], root: Path, probe: str
) -> Iterator[None]:
    """A server in ``root``, up once ``probe`` is answered, stopped at the end."""
    with (root / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=root)
    try:
        deadline = time.monotonic() + scaled(60)
        while True:
            try:
                urllib.request.urlopen(probe, timeout=scaled(2)).close()
                break
            except urllib.error.HTTPError:
                break  # it answers
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    log_text = (root / "server.log").read_text()
                    raise RuntimeError(f"{command} did not start:\n{log_text}") from None
                time.sleep(0.1)
        yield
    finally:
        process.terminate()
        try:
            process.wait(scaled(15))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def serving(root: Path, app: Literal["lab", "notebook"] = "lab") -> Iterator[Server]:
    """A Jupyter server in ``root``, stopped at the end."""
    port, token = free_port(), secrets.token_hex(12)
    home = root / ".home"
    for name, settings in SETTINGS.items():
        path = home / "settings" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings))
    env = {
        **surroundings(root),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
    }
    command = [
        *(sys.executable, "-m", f"jupyter{'lab' if app == 'lab' else ''}"),
        *(() if app == "lab" else ("notebook",)),
        "--no-browser",
        "--allow-root",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={root}",
        "--expose-app-in-browser",
    ]
    url = f"http://127.0.0.1:{port}"
    with server_process(command, env, root, f"{url}/api?token={token}"):
        yield Server(url, token, root, app)


class OpenNotebook:
    """One notebook open in one page."""

    def __init__(self, page: Page, path: Path) -> None:
        self.page = page
        self.path = path
        self.console: list[str] = []
        page.on("console", self._told)
        page.on("pageerror", self._failed)

    def _told(self, message: ConsoleMessage) -> None:
        """Keep an error, but for a request of JupyterLab's own while a test has taken the network."""
        if message.type == "error" and "ERR_INTERNET_DISCONNECTED" not in message.text:
            self.console.append(message.text)

    def _failed(self, error: Error) -> None:
        self.console.append(str(error))

    def leave(self) -> None:
        """Close it, and leave the page as it was found."""
        self.page.remove_listener("console", self._told)
        self.page.remove_listener("pageerror", self._failed)
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.dispose()")
        self.page.context.clear_permissions()
        self.page.emulate_media(forced_colors="null")

    def run(self, source: str) -> str:
        """Run a new cell to its end; what it printed. A traceback is raised."""
        _, outputs = self.page.evaluate(RUN, [source, True])
        for output in outputs:
            if output["output_type"] == "error":
                raise AssertionError("\n".join(output["traceback"]))
        return "".join("".join(o["text"]) for o in outputs if o["output_type"] == "stream").strip()

    def ask(self, source: str) -> str:
        """Run code in the kernel without a cell, so that the page does not scroll; what it printed."""
        text: str = self.page.evaluate(ASK, source)
        return text.strip()

    def until(self, condition: str, seconds: float = 10) -> None:
        """Wait in the kernel until an expression is true there."""
        self.ask(
            f"import time\n_end = time.monotonic() + {scaled(seconds)}\n"
            f"while not ({condition}):\n"
            f"    assert time.monotonic() < _end, {condition!r}\n    time.sleep(0.02)"
        )

    def start(self, source: str) -> int:
        """Run a new cell without waiting for it; its index."""
        index: int = self.page.evaluate(RUN, [source, False])[0]
        return index

    @contextmanager
    def busy(self, first: str = "") -> Iterator[None]:
        """A cell runs all the while, after ``first``: the kernel's main thread hears nobody."""
        begun, done = self.path.with_suffix(".begun"), self.path.with_suffix(".done")
        begun.unlink(missing_ok=True)
        done.unlink(missing_ok=True)
        self.start(
            f"import pathlib, time\n{first}\npathlib.Path({str(begun)!r}).touch()\n"
            f"while not pathlib.Path({str(done)!r}).exists(): time.sleep(0.02)"
        )
        try:
            until(begun.exists)
            yield
        finally:
            done.touch()

    def show(self, source: str) -> Locator:
        """Run a new cell that displays a widget, and bring the widget on the screen."""
        cell = self.page.locator(".jp-Notebook-cell").nth(self.start(source))
        widget = cell.locator(".nrt")
        widget.scroll_into_view_if_needed()
        return widget

    def command(self, name: str, **args: Any) -> None:
        """Run a command of the front end."""
        self.page.evaluate(
            "([name, args]) => window.jupyterapp.commands.execute(name, args).then(() => null)",
            [name, args],
        )

    def theme(self, dark: bool) -> None:
        """Switch the front end between light and dark."""
        self.command(
            "apputils:change-theme", theme="JupyterLab Dark" if dark else "JupyterLab Light"
        )
        # The page is repainted first, and the widgets look at what is behind them then.
        self.page.wait_for_function(
            """word => document.body.dataset.jpThemeLight === String(word === "light") &&
            [...document.querySelectorAll(".nrt")].every(node => node.dataset.theme === word)""",
            arg="dark" if dark else "light",
        )

    def save(self) -> dict[str, Any]:
        """Save, and read the file."""
        self.command("docmanager:save")
        saved: dict[str, Any] = json.loads(self.path.read_text())
        return saved


class Browser:
    """Headless Chromium on a Jupyter server.

    Loading JupyterLab takes as long as most tests: its page is kept, and the next notebook opened in it.
    """

    def __init__(self, chromium: Chromium, server: Server) -> None:
        self._chromium = chromium
        self.server = server
        self._kept: Page | None = None
        """A page of JupyterLab in which no notebook is open."""

    @contextmanager
    def notebook(
        self,
        name: str = "",
        *,
        width: int = 1100,
        height: int = 900,
        scale: float = 1,
        script: str = "",
    ) -> Iterator[OpenNotebook]:
        """A notebook, a fresh one unless there is one of that name, its kernel started; the kernel is
        shut down at the end.

        ``script`` runs in the page before anything else.
        """
        try:
            notebook = self._opened(name, width, height, scale, script, 30)
        except TimeoutError:  # a kernel that did not start, or was not heard: Jupyter's matter
            notebook = self._opened(name, width, height, scale, script, 60)
        page = notebook.page
        try:
            yield notebook
            notebook.command("notebook:shutdown-kernel")
            if self._keeps(scale, script) and self._kept is None:
                notebook.leave()
                self._kept = page
        finally:
            if page is not self._kept:
                page.context.close()

    def _keeps(self, scale: float, script: str) -> bool:
        """Whether a page of this kind serves another notebook."""
        return self.server.app == "lab" and scale == 1 and not script

    def _opened(
        self, name: str, width: int, height: int, scale: float, script: str, seconds: float
    ) -> OpenNotebook:
        """A notebook whose kernel is idle; ``seconds`` are for it to be."""
        name = name or f"n{secrets.token_hex(4)}.ipynb"
        path = self.server.root / name
        kernel = {"name": "python3", "display_name": "Python 3"}
        fresh = {
            "cells": [],
            "metadata": {"kernelspec": kernel},
            "nbformat": 4,
            "nbformat_minor": 5,
        }
        if not path.exists():
            path.write_text(json.dumps(fresh))
        # Taken: whatever fails in it, the next notebook has another page.
        page = None
        if self._keeps(scale, script):
            page, self._kept = self._kept, None
        loaded = page is not None
        if page is None:
            page = self._chromium.new_context(device_scale_factor=scale).new_page()
            page.context.set_default_timeout(scaled(30_000))
            # JupyterLab asks for its folder time and again, and once in many runs is told that there is none.
            page.add_locator_handler(
                page.locator("dialog.jp-Dialog", has_text="Directory not found"),
                lambda dialog: dialog.get_by_role("button").last.click(),
            )
        try:
            page.set_viewport_size({"width": width, "height": height})
            notebook = OpenNotebook(page, path)
            if loaded:
                notebook.command("docmanager:open", path=name)
            else:
                if script:
                    page.add_init_script(script)
                way = "doc/tree" if self.server.app == "lab" else "notebooks"
                page.goto(f"{self.server.url}/{way}/{name}?token={self.server.token}")
            page.wait_for_function(
                "() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel"
                "?.status === 'idle'",
                timeout=scaled(1000 * seconds),
            )
        except BaseException:
            page.context.close()
            raise
        return notebook


@contextmanager
def headless() -> Iterator[Chromium]:
    """Headless Chromium, closed at the end."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        try:
            yield chromium
        finally:
            chromium.close()


@contextmanager
def browsing(server: Server) -> Iterator[Browser]:
    """Headless Chromium on ``server``."""
    with headless() as chromium:
        yield Browser(chromium, server)
