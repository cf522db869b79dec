"""``notebook-rt watch TABLE``: a live table in the terminal, or its changes as JSON for a pipe.

In: a table's name, filter and order. Out: on a terminal, the rows, updated until Ctrl-C, with recent changes
in bold; otherwise a line of JSON for each change, for other programs.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from notebook_rt.cli.advice import in_shell, log_in_shell
from notebook_rt.quoting import printable

if TYPE_CHECKING:
    from rich.console import Group

    from notebook_rt.runtime.changes import ChangeBatch
    from notebook_rt.session import Session
    from notebook_rt.table import LiveTable

FLASH_SECONDS = 1.5
REFRESHES_A_SECOND = 8
CELL_WIDTH = 40
COLORS = {"healthy": "green", "closed": "red", "offline": "red", "stale": "red"}
"""Colors of the health status; yellow for all others."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("table", help="the table's name")
    parser.add_argument("--filter", help="only these rows: status=eq.open,price=gte.10")
    parser.add_argument("--columns", help="only these columns: name,price")
    parser.add_argument("--order", help="sort by these columns: price.desc,name")
    parser.add_argument("--limit", type=int, help="only the first LIMIT rows")
    parser.add_argument("--key", help="the columns that identify a row: shop,day")
    parser.add_argument("--schema", help="the table's schema (default: public)")
    parser.add_argument(
        "--json", action="store_true", help="print changes as lines of JSON, as in a pipe"
    )
    parser.add_argument(
        "--once", action="store_true", help="print the rows as they are now, and exit"
    )


def run(parsed: argparse.Namespace) -> int:
    """Watch until Ctrl-C."""
    import notebook_rt as nrt
    from notebook_rt.net.address import environment_url

    with log_in_shell(), nrt.connect(environment_url(os.environ) or "local") as session:
        names = ("filter", "columns", "order", "limit", "key", "schema")
        table = session.table(parsed.table, **{name: getattr(parsed, name) for name in names})
        table.wait()
        if parsed.json or not sys.stdout.isatty():
            return _lines(table, once=parsed.once)
        return _screen(session, table, once=parsed.once)


def _lines(table: LiveTable, *, once: bool) -> int:
    changes = table.changes()
    _when_unread(sys.stdout.fileno(), changes.close)
    try:
        for key in table.df.index:  # existing rows first
            row = table.get(key)
            if row is not None:
                _print(_change("insert", key, row))
        if not once:
            for batch in changes:
                for change in batch:
                    _print(change.to_dict())
    except BrokenPipeError:  # the reader has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        changes.close()
    return 0


def _when_unread(fd: int, end: Callable[[], object]) -> None:
    """Call ``end`` once the reader of this pipe is gone, if the system reports it.

    A write would also fail, but the next one may come much later.
    """
    if not hasattr(select, "poll"):  # Windows
        return
    watched = select.poll()
    watched.register(fd, 0)  # POLLERR is always reported

    def wait() -> None:
        if any(event & select.POLLERR for _, event in watched.poll()):
            end()

    threading.Thread(target=wait, name="notebook-rt watch: stdout", daemon=True).start()


def _change(kind: str, key: Any, row: Any) -> dict[str, Any]:
    from notebook_rt.model.rows import RowChange

    return RowChange(kind, key, None, row).to_dict()  # type: ignore[arg-type]  # "insert"


def _print(change: dict[str, Any]) -> None:
    # ensure_ascii: no control sequences, in case the output is a terminal after all.
    print(json.dumps(change), flush=True)


def _screen(session: Session, table: LiveTable, *, once: bool) -> int:
    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError:
        print(
            "watch draws with rich: pip install 'notebook_rt[cli]', or say --json", file=sys.stderr
        )
        return 1
    console = Console()
    flashes: dict[tuple[Any, str], float] = {}
    if once:
        console.print(drawn(session, table, flashes, console.height))
        return 0

    def note(batch: ChangeBatch) -> None:
        now = time.monotonic()
        for change in batch:
            for name, value in (change.new or {}).items():
                if change.old is None or change.old.get(name) != value:
                    flashes[change.key, name] = now

    table.on_change(note)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            marked = dict(flashes)
            live.update(drawn(session, table, marked, console.height), refresh=True)
            for cell, at in marked.items():  # drawn once, however long that took
                if time.monotonic() - at > FLASH_SECONDS and flashes.get(cell) == at:
                    flashes.pop(cell, None)
            time.sleep(1 / REFRESHES_A_SECOND)


def drawn(
    session: Session, table: LiveTable, flashes: dict[tuple[Any, str], float], height: int
) -> Group:
    """Return the screen: the rows that fit, and one line about them."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    df = table.df.head(max(1, height - 6))
    total = len(table)
    shown = Table(expand=False, header_style="bold")
    for name in (*df.index.names, *df.columns):
        numbers = name in df and df[name].dtype.kind in "iuf"
        shown.add_column(
            Text(printable(str(name))), justify="right" if numbers else "left", no_wrap=True
        )
    for key, values in zip(df.index, df.itertuples(index=False, name=None), strict=True):
        keys = key if isinstance(key, tuple) else (key,)
        cells = [Text(_cell(part), style="cyan") for part in keys]
        for name, value in zip(df.columns, values, strict=True):
            cells.append(Text(_cell(value), style="bold reverse" if (key, name) in flashes else ""))
        shown.add_row(*cells)
    health = session.health
    rows = f"{total:,} row{'s' * (total != 1)}" + (
        f", the first {len(df):,}" if len(df) < total else ""
    )
    line = Text(printable(f"{table.name}: {rows}, {table.status}. "))
    line.append(health.status, COLORS.get(health.status, "yellow"))
    line.append(printable(f": {in_shell(health.reason)}. Ctrl-C ends."), "dim")
    return Group(line, shown)


def _cell(value: Any) -> str:
    missing = value is None or value != value
    text = "" if missing else printable(str(value))
    return text if len(text) <= CELL_WIDTH else text[: CELL_WIDTH - 1] + "…"
