"""``demo``: a session on live sample data, without any setup.

In: a seed and a rate. Out: a `Session` on a temporary stack, with tables, people in a channel and a process
that writes; all of it ends with the session or the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import threading
from collections.abc import Mapping, Sequence
from importlib import import_module
from random import Random
from typing import TYPE_CHECKING

from notebook_rt.options import Options
from notebook_rt.runtime.optional_sql import optional_sql
from notebook_rt.sample.market import TABLES, Market, Row, statements
from notebook_rt.sample.writer import Job, Writer

if TYPE_CHECKING:
    from notebook_rt.local import LocalStack
    from notebook_rt.session import Session

RATE = 8.0
FASTEST = 20.0
"""Maximum trades per second: each causes about three changes, and the stack streams 100 changes a second,
like hosted projects on the free plan."""


def demo(
    tables: str | Sequence[str] = TABLES,
    *,
    rate: float = RATE,
    seed: int = 42,
    options: Options | None = None,
) -> Session:
    """Open a session on live sample data, without any setup: a stock market on this machine.

    It starts a real PostgreSQL from the extra ``local``, in a temporary directory for this session only,
    and a separate process that trades in it. No other database is used, even if ``$SUPABASE_URL`` is set.
    It takes a few seconds, and ends when the session is closed, when the cell is run again, or with the
    kernel.

    The tables, whose rows change continuously:

    - ``stocks``: ``symbol`` (the key), ``company``, ``sector``, ``price``, ``change`` (percent since the
      market opened), ``volume``;
    - ``trades``: ``id``, ``at``, ``symbol``, ``side``, ``size``, ``price``, ``trader``; the latest 2,000;
    - ``orders``: ``id``, ``symbol``, ``side``, ``quantity``, ``price``, ``status`` (``open``, ``filled``,
      ``cancelled``), ``trader``, ``notes``, ``updated_at``; you can write into this table.

    Ada, Grace and Edgar are in the channel ``trading-floor``. Only the names of the companies are real.

    Parameters
    ----------
    tables : str or sequence of str
        Which of the three tables to create.
    rate : float
        Trades per second, up to 20; 0: nothing changes. Each changes a stock and adds a trade; with every
        third one, an order is opened, filled or cancelled.
    seed : int
        The same seed starts with the same rows, and produces the same events in the same order.
    options : Options, optional
        The options of the session.

    Returns
    -------
    Session
        As returned by `connect`; its ``stack`` has ``sql``, ``url`` and the keys.

    Raises
    ------
    StackError
        If the embedded stack cannot be started; see `notebook_rt.local.start`.
    ValueError
        If there is no such table, or the rate is invalid.

    Examples
    --------
    >>> rt = demo()  # doctest: +SKIP
    >>> rt.table("stocks")  # a live grid, in a notebook  # doctest: +SKIP
    >>> rt.table("stocks", order="change.desc", limit=5)  # the five that gained most  # doctest: +SKIP
    >>> rt.table("trades", filter="symbol=eq.NVDA").plot(x="at", y="price")  # doctest: +SKIP
    >>> rt.table("trades").map(lambda df: df.groupby("symbol")["size"].sum())  # doctest: +SKIP
    >>> rt.table("orders", filter="status=eq.open")  # rows come and go  # doctest: +SKIP
    >>> rt.channel("trading-floor").presence  # who is there  # doctest: +SKIP
    """
    wanted = (tables,) if isinstance(tables, str) else tuple(tables)
    for name in wanted:
        if name not in TABLES:
            raise ValueError(f"the demo has the tables {', '.join(TABLES)}, and no {name!r}")
    if not 0 <= rate <= FASTEST:
        raise ValueError(
            f"rate must be a number of trades a second, 0 to {FASTEST:g}, not {rate!r}"
        )

    from notebook_rt import local

    # Importing pandas takes as long as creating a database: do both at once.
    threading.Thread(target=import_module, args=("notebook_rt.session",), daemon=True).start()
    with contextlib.ExitStack() as undo:
        stack = undo.enter_context(local.start(temporary=True))
        writer = Writer(stack.directory)
        undo.callback(writer.stop)
        opening = Market(Random(seed)).opening(dt.datetime.now(dt.UTC), rate or RATE)
        stack.sql(optional_sql() + statements(wanted))
        for name in wanted:
            _fill(stack, name, opening)
        writer.begin(Job(stack.url, stack.anon_key, stack.dsn, seed, rate, wanted))

        from notebook_rt.session import Session, connected

        session = Session(
            stack.url,
            stack.anon_key,
            # Its queue is not kept: the rows it would change are gone, too.
            queue_path=stack.directory / "queue.sqlite3",
            options=options,
            stack=stack,
        )
        _end_after(session, writer, undo.pop_all())
    return connected(session, "demo")


def _fill(stack: LocalStack, table: str, opening: Mapping[str, Sequence[Row]]) -> None:
    rows = opening[table]
    columns = ", ".join(rows[0])
    stack.sql(
        f"insert into public.{table} ({columns}) "
        f"select {columns} from json_populate_recordset(null::public.{table}, %s)",
        json.dumps(rows),
    )


def _end_after(session: Session, writer: Writer, all_of_it: contextlib.ExitStack) -> None:
    """End the writer and the stack after the session, however it ends."""

    async def end() -> None:
        writer.let_go()
        with contextlib.suppress(ConnectionAbortedError):  # Python is ending, and they end with it
            await asyncio.to_thread(all_of_it.close)

    session._project.temporary = True
    session._project.enders.append(end)
