"""Every Python block of the README and the how-tos runs unchanged, in its own process, silently.

The first one needs nothing: it shows rows that change in a fresh notebook, at a prompt and in a script.
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from notebook_rt.local import LocalStack
from tests.waiting import scaled

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", ROOT / "docs" / "howto" / "write-a-dataframe.md")
BLOCKS = [
    block
    for page in PAGES
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)
]


@pytest.fixture(scope="module")
def project(stack: LocalStack) -> LocalStack:
    """The project that the README talks of."""
    stack.sql("drop table if exists prices")
    stack.sql(
        "create table prices (symbol text, month date, price float8, primary key (symbol, month))"
    )
    stack.sql("insert into prices values ('AAPL', '2010-03-01', 223.02)")
    stack.sql("alter publication supabase_realtime add table prices")
    stack.sql("grant select, insert, update, delete on prices to anon, authenticated")
    return stack


STRICT = [sys.executable, "-X", "dev", "-W", "default::RuntimeWarning", "-c"]


@pytest.mark.parametrize("block", BLOCKS[1:], ids=range(2, len(BLOCKS) + 1))
def test_readme_block_runs_without_noise(block: str, project: LocalStack, tmp_path: Path) -> None:
    """The first needs no project, and is run below."""
    done = subprocess.run(
        [*STRICT, block],
        cwd=tmp_path,
        env=os.environ
        | {
            "SUPABASE_URL": project.url,
            "SUPABASE_KEY": project.anon_key,
            "XDG_STATE_HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=scaled(60),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "never retrieved" not in done.stderr


def test_readme_names_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert "./do demo" in text
    assert "./do test" in text


FIRST = BLOCKS[0]
SAYS_WHY = re.compile(r"^local stack: .*\r?\n", re.M)
"""A line for who waits for a slow start."""


def nothing_set_up(home: Path) -> dict[str, str]:
    """The environment of somebody new."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SUPABASE_")}
    return kept | {"XDG_STATE_HOME": str(home)}


def shows_rows_that_changed(printed: str) -> bool:
    """Whether two DataFrames were printed, of five stocks each, and differ."""
    tables = [
        re.sub(r"\s*\n\s*", "\n", table)
        for table in re.findall(r"company +sector.*?\n(?:symbol.*?\n)((?:\w+ .*\n){5})", printed)
    ]
    return len(tables) == 2 and tables[0] != tables[1]


def test_the_first_block_shows_rows_that_change_in_a_script(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FIRST],
        env=nothing_set_up(tmp_path),
        capture_output=True,
        text=True,
        timeout=scaled(60),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert SAYS_WHY.sub("", done.stderr) == ""
    assert shows_rows_that_changed(done.stdout), done.stdout


def test_the_first_block_shows_rows_that_change_at_a_prompt(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-q"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=nothing_set_up(tmp_path) | {"TERM": "dumb", "PYTHON_BASIC_REPL": "1"},
        start_new_session=True,
    )
    os.close(theirs)
    said = ""

    def read_until(wanted: str) -> None:
        nonlocal said
        while not re.search(wanted, said):  # the test's own timeout ends a silent process
            said += os.read(ours, 65536).decode().replace("\r", "")

    try:
        read_until(">>> $")
        os.write(ours, FIRST.encode())
        read_until(r"\n<LiveTable stocks .*, 5 rows.*>\n>>> $")
        os.write(ours, b"exit()\n")
        assert process.wait(scaled(20)) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert "Error" not in said
    assert shows_rows_that_changed(said), said


def test_the_first_block_shows_rows_that_change_in_a_notebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in os.environ:
        if name.startswith("SUPABASE_"):
            monkeypatch.delenv(name)
    cells = [nbformat.v4.new_code_cell(FIRST)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=scaled(60), kernel_name="python3").execute()
    (cell,) = notebook.cells
    streams = [o for o in cell.outputs if o.output_type == "stream"]
    assert {stream.name for stream in streams} == {"stdout"}
    assert shows_rows_that_changed("".join(stream.text for stream in streams)), streams
    shown = [o.data for o in cell.outputs if o.output_type == "execute_result"]
    assert "application/vnd.jupyter.widget-view+json" in shown[0], "the live grid"
