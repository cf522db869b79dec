"""A kernel with one open table and its queue, without the socket, for the tests of the outbox.

Run as a script it is a kernel to be killed: it edits as fast as it can, says on stdout what it is
about to edit and what was acknowledged, and drains its queue meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from notebook_rt.edits.editing import Editing
from notebook_rt.edits.editor import Editor
from notebook_rt.edits.merge import Strategies
from notebook_rt.edits.ops import Json
from notebook_rt.edits.overlay import Overlay
from notebook_rt.model.rows import Key, RowChange
from notebook_rt.model.types import Column, Schema
from notebook_rt.net.credentials import Credentials
from notebook_rt.net.http import HttpClient
from notebook_rt.outbox.account import Owner
from notebook_rt.outbox.queue import Outbox
from notebook_rt.outbox.rest import HttpRest
from notebook_rt.outbox.worker import Worker
from notebook_rt.store.table import Table
from tests.waiting import scaled

SCHEMA = Schema(
    (
        Column("id", "uuid"),
        Column("n", "int8"),
        Column("note", "text"),
        Column("price", "numeric"),
        Column("tags", "_text"),
        Column("doc", "json"),
        Column("updated_at", "timestamptz"),
    ),
    key=("id",),
)
OWNER = Owner("http://project", "anon")
"""Of every kernel, with or without a proxy before the stack."""
STRATEGIES = Strategies(columns={"n": "delta", "tags": "union"})

TABLE_SQL = """
create table {0} (
    id uuid primary key, n bigint not null default 0 check (n >= 0), note text,
    price numeric, tags text[] not null default '{{}}', doc json,
    updated_at timestamptz not null default clock_timestamp());
grant all on {0} to anon, authenticated;
create or replace function {0}_touch() returns trigger language plpgsql as
    $$ begin new.updated_at = clock_timestamp(); return new; end $$;
create trigger touch before update on {0} for each row execute function {0}_touch();
notify pgrst, 'reload schema';
"""


class Kernel:
    """One kernel on a queue's file."""

    def __init__(
        self,
        url: str,
        key: str,
        path: Path | str,
        table: str,
        *,
        strategies: Strategies = STRATEGIES,
        clock_offset: float = 0.0,
        true_offset: float = 0.0,
        timeout: float = 5.0,
        batch: int = 10,
    ) -> None:
        # The machine's clock is wrong by ``clock_offset``; what the session knows of it mends it.
        self.clock: Callable[[], float] = lambda: time.time() + clock_offset - true_offset
        self.url, self.key, self.table_name = url, key, table
        self.credentials = Credentials(key)
        self.outbox = Outbox(path, OWNER, lease=5.0)
        self.notes: list[tuple[str, str]] = []
        self.editing = Editing(
            self.outbox, clock=self.clock, note=lambda kind, text: self.notes.append((kind, text))
        )
        self.changes: list[RowChange] = []
        self.editor: Editor = self.editing.editor("public", table, strategies, self.changes.extend)
        self.table = Table(SCHEMA)
        self.overlay = Overlay(self.table, SCHEMA, strategies)
        self.refreshes: list[str] = []
        self.rest = HttpRest(HttpClient(url, self.credentials, self._refresh, seconds=timeout))
        self.worker = Worker(
            self.outbox,
            self.rest,
            self.editing,
            clock=lambda: self.clock(),
            strategies=self.editing.strategies,
            batch=batch,
        )

    async def _refresh(self, refused: str | None) -> bool:
        if not self.refreshes:
            return False
        self.credentials.access_token = self.refreshes.pop(0)
        return True

    def read(self, url: str | None = None) -> None:
        """Read the table anew, as a reconciliation does."""
        rows: list[dict[str, Json]] = []
        with httpx.Client(headers={"apikey": self.key, "Authorization": f"Bearer {self.key}"}) as c:
            while True:
                params = {"order": "id", "limit": "1000", "offset": str(len(rows))}
                page = c.get(f"{url or self.url}/rest/v1/{self.table_name}", params=params)
                page.raise_for_status()
                rows += page.json()
                if len(page.json()) < 1000:
                    break
        with self.editing.lock:
            load = self.overlay.load()
            if rows:
                load.extend(rows)
            load.commit()

    def open(self, url: str | None = None) -> Kernel:
        self.editor.attach(self.overlay)
        self.read(url)
        return self

    def view(self, key: Key) -> dict[str, Any]:
        row = self.editor.row(key)
        assert row is not None
        return row

    async def drain(self, seconds: float = 15.0) -> None:
        """Send until nothing waits any more but what is set aside."""
        until = time.monotonic() + scaled(seconds)
        while self.outbox.next_at() is not None:
            assert time.monotonic() < until, self.outbox.ops()[:3]
            if not await self.worker.step():
                await asyncio.sleep(0.02)

    async def close(self) -> None:
        await self.rest.aclose()
        self.outbox.close()


async def edit_until_killed(url: str, through: str, key: str, path: str, table: str) -> None:
    kernel = Kernel(through, key, path, table, timeout=1.0).open(url)
    dice = random.Random()
    draining = asyncio.create_task(kernel.worker.run())
    mine = str(uuid.uuid4())
    counters = [k for k in kernel.table.keys() if kernel.view(k)["note"] == "counter"]  # noqa: SIM118  a Table is no dict

    def say(*words: object) -> None:
        os.write(1, (" ".join(map(str, words)) + "\n").encode())

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, draining.cancel)
    say("insert?", mine, 0)
    kernel.editor.insert({"id": mine, "note": "0", "tags": []})
    say("insert!", mine, 0)
    number = 0
    while not draining.done():
        number += 1
        say("note?", mine, number)
        kernel.editor.edit(mine, {"note": str(number)})
        say("note!", mine, number)
        counter = dice.choice(counters)
        amount = dice.randrange(1, 1 << 40)
        say("add?", counter, amount)
        kernel.editor.edit(counter, {"n": kernel.view(counter)["n"] + amount})
        say("add!", counter, amount)
        await asyncio.sleep(dice.random() * 0.01)
    with contextlib.suppress(asyncio.CancelledError):  # asked to end
        draining.result()
    await kernel.close()


def planned(edits: int) -> list[str]:
    """What `type_ahead` does, edit by edit: runs of up to 25 of one kind, mixed."""
    dice = random.Random(11)
    kinds: list[str] = []
    while len(kinds) < edits:
        kinds += [dice.choice(("insert", "update", "delete"))] * dice.randint(1, 25)
    return kinds[:edits]


def row_of(number: int) -> str:
    """The row that an edit of the plan is about."""
    return str(uuid.UUID(int=number))


def type_ahead(url: str, key: str, path: str, table: str, edits: str) -> None:
    """Make the planned edits, each of a row of its own, and send none of them."""
    editor = Kernel(url, key, path, table).open().editor
    for number, kind in enumerate(planned(int(edits))):
        if kind == "insert":
            editor.insert({"id": row_of(number), "note": str(number), "tags": []})
        elif kind == "update":
            editor.edit(row_of(number), {"note": str(number)})
        else:
            editor.delete(row_of(number))


def nursery(arguments: list[str]) -> None:
    """Fork a kernel for each line on stdin, so that the imports are paid once.

    ``go`` starts one and says ``pid``; ``reap`` says ``reaped`` when all that was started is dead.
    Each line is one write, so a killed kernel leaves no half line.
    """
    running = []
    for line in sys.stdin:
        if line == "go\n":
            pid = os.fork()
            if pid == 0:
                asyncio.run(edit_until_killed(*arguments))
                os._exit(0)
            running.append(pid)
            os.write(1, f"pid - {pid}\n".encode())
        else:
            while running:
                os.waitpid(running.pop(), 0)
            os.write(1, b"reaped - 0\n")


if __name__ == "__main__":
    nursery(sys.argv[1:])
