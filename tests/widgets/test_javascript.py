"""The widgets' JavaScript: its own tests, and the protocol of both sides and the page."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from notebook_rt.widgets import ChartWidget
from notebook_rt.widgets.base import HERE
from tests.browser import scenes
from tests.waiting import scaled, until

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "design" / "widget-protocol.md"


def test_what_is_pure_passes_its_own_tests_in_node() -> None:
    tests = sorted(map(str, (ROOT / "tests" / "js").glob("*.test.js")))
    ran = subprocess.run(
        ["node", "--import", "./tests/js/setup.mjs", "--test", *tests],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=scaled(60),
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_lock_and_its_neighbours_name_no_registry() -> None:
    for name in ("package.json", "package-lock.json", ".npmrc"):
        text = (ROOT / name).read_text()
        assert "resolved" not in text.replace("omit-lockfile-registry-resolved", "")
        assert not re.search(r"^\s*(@\w+:)?registry", text, re.MULTILINE)


def typed() -> tuple[set[str], set[str]]:
    """The message types of ``protocol.d.ts``: from the kernel, to the kernel."""
    text = (HERE / "protocol.d.ts").read_text()
    halves = text.split("export type ToKernel =")
    found = [
        {name for union in re.findall(r'\bt: ((?:"\w+"(?: \| )?)+)', half) for name in words(union)}
        for half in halves
    ]
    return found[0], found[1]


def words(union: str) -> list[str]:
    return re.findall(r'"(\w+)"', union)


def tabled(heading: str) -> set[str]:
    """The message types in the first column of the page's table under ``heading``."""
    section = PAGE.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)} - {"t"}


def test_the_page_names_every_message_type_and_no_other() -> None:
    from_kernel, to_kernel = typed()
    assert tabled("Kernel to browser") == from_kernel
    assert tabled("Browser to kernel") == to_kernel


def test_the_kernel_sends_and_hears_the_types_that_the_browser_knows() -> None:
    """What the browser sends and hears is checked by ``tsc``; this is the other side."""
    python = "\n".join(path.read_text() for path in HERE.glob("*.py"))
    from_kernel, to_kernel = typed()
    assert set(re.findall(r'"t": "(\w+)"', python)) == from_kernel
    handled = set(re.findall(r'"(\w+)": (?:self\._on_|lambda word|state\.dismiss)', python))
    lease = {"look", "leave", "ack", "visible", "hidden", "online", "offline"}
    assert handled | lease | {"library", "static"} == to_kernel
    for name in to_kernel:
        assert f'"{name}"' in python


def test_a_kernel_that_cannot_make_a_library_says_why() -> None:
    def missing() -> bytes:
        raise ModuleNotFoundError('charts need the extra "plot"')

    widget = ChartWidget(scenes.frame(3), y="price")
    sent: list[object] = []
    widget.libraries = {"vega": missing}
    widget._send_now = lambda content, buffers: sent.append((content, buffers))
    widget._enqueue(None, {"t": "library", "view": "v", "name": "vega"}, [])
    until(lambda: len(sent) == 1)
    why = 'ModuleNotFoundError: charts need the extra "plot"'
    assert sent == [({"t": "library", "name": "vega", "error": why}, ())]
    widget.close()
