"""The expected contents of a live table: ``SELECT`` with psycopg, independent of the package.

In: the local stack, a table's name and what a frame was asked for. Out: ``difference``, a sentence
about the first thing that is not the same (keys, values, order, dtypes), or an empty one. And
``Writer``, which meanwhile writes at random, by SQL, what people and programs write.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime as dt
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import pandas as pd
import psycopg

import notebook_rt as nrt
from notebook_rt.local import LocalStack
from tests.waiting import scaled

COLUMNS: Final = {
    "name": "text",
    "price": "numeric",
    "qty": "int",
    "active": "bool not null default true",
    "note": "text",
    "extra": "jsonb",
    "at": "timestamptz",
}
DTYPES: Final = {
    "id": {"int64"},
    "name": {"str"},
    "price": {"float64"},
    # Nullable from the first null on, so without one now it is either.
    "qty": {"int64", "Int64"},
    "active": {"bool", "boolean"},
    "note": {"str"},
    "extra": {"object"},
    "at": {"datetime64[us, UTC]"},
    "updated_at": {"datetime64[us, UTC]"},
}


@dataclass(frozen=True, slots=True)
class View:
    """What a frame is asked for, and the same as SQL."""

    name: str
    filter: str | None = None
    where: str = "true"
    order: str | None = None
    by: str = "id"
    limit: int | None = None

    def open(self, session: nrt.Session, table: str) -> nrt.LiveFrame:
        """The frame."""
        return session.table(table, filter=self.filter, order=self.order, limit=self.limit)

    def select(self, stack: LocalStack, table: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """The truth: its columns and its rows, in order."""
        limit = "" if self.limit is None else f" limit {self.limit}"
        cursor = _asked(
            stack.dsn, f"select * from {table} where {self.where} order by {self.by}{limit}"
        )
        assert cursor.description is not None
        return [column.name for column in cursor.description], cursor.fetchall()


_connections: Final[dict[str, psycopg.Connection[Any]]] = {}


def _asked(dsn: str, query: str) -> psycopg.Cursor[Any]:
    """Ask over a connection that stays: a new one is a process of PostgreSQL, ten times the work."""
    connection = _connections.get(dsn)
    if connection is not None:
        try:
            return connection.execute(query)
        except psycopg.OperationalError:  # PostgreSQL was restarted
            connection.close()
    # Not prepared, for columns come and go.
    _connections[dsn] = psycopg.connect(dsn, autocommit=True, prepare_threshold=None)
    return _connections[dsn].execute(query)


@atexit.register
def _hang_up() -> None:
    for connection in _connections.values():
        connection.close()


EVERYTHING: Final = View("unfiltered")
SOME: Final = View("filtered", filter="qty=gte.50,active=is.true", where="qty >= 50 and active")
TOP: Final = View("top-N", order="price.desc,id", by="price desc, id", limit=50)
VIEWS: Final = (EVERYTHING, SOME, TOP)


def difference(view: View, frame: nrt.LiveFrame, stack: LocalStack, table: str) -> str:
    """What of ``frame`` is not as ``SELECT`` says at this moment; empty if all is."""
    names, truth = view.select(stack, table)
    df = frame.df
    shown = [df.index.name, *df.columns]
    if sorted(shown) != sorted(names):
        return f"{view.name}: columns {shown}, not {names}"
    series = {"id": df.index.to_series(), **dict(df.items())}
    for name in names:
        if name in DTYPES and str(series[name].dtype) not in DTYPES[name]:
            return f"{view.name}: {name} is {series[name].dtype}, not {DTYPES[name]}"
    rows = list(zip(*([plain(v) for v in series[n].tolist()] for n in names), strict=True))
    wanted = [tuple(plain(value) for value in row) for row in truth]
    if view.order is None:  # then rows come in order of arrival (promise 8)
        rows.sort(key=lambda row: int(row[0]))
    return _difference(view.name, rows, wanted)


def _difference(name: str, rows: list[tuple[Any, ...]], wanted: list[tuple[Any, ...]]) -> str:
    if rows == wanted:
        return ""
    mine, theirs = {row[0]: row for row in rows}, {row[0]: row for row in wanted}
    if len(mine) != len(rows):
        return f"{name}: a key twice"
    gone, extra = sorted(theirs.keys() - mine.keys()), sorted(mine.keys() - theirs.keys())
    other = [key for key in mine.keys() & theirs.keys() if mine[key] != theirs[key]]
    example = f", such as {mine[other[0]]} for {theirs[other[0]]}" if other else ""
    if gone or extra or other:
        return (
            f"{name}: {len(gone)} missing {gone[:5]}, {len(extra)} too many {extra[:5]}, "
            f"{len(other)} of another value{example}"
        )
    return f"{name}: another order"


def plain(value: Any) -> Any:
    """A value as plain Python, the same from pandas and from psycopg."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict | list):
        return value
    if pd.isna(value):
        return None
    if isinstance(value, pd.Timestamp):
        value = value.to_pydatetime()
    return value.astimezone(dt.UTC) if isinstance(value, dt.datetime) else value


@contextlib.contextmanager
def table_of(
    stack: LocalStack, name: str, rows: int, seed: int = 0, version: str = "none"
) -> Iterator[str]:
    """A published table with random rows; dropped at the end.

    ``version``: whether there is an ``updated_at``, and whether anything moves it: ``"none"``,
    ``"trigger"``, or ``"default"`` (set by INSERT only, as in most tables there are).
    """
    columns = ", ".join(f"{column} {kind}" for column, kind in COLUMNS.items())
    if version != "none":
        columns += ", updated_at timestamptz not null default now()"
    stack.sql(f"create table {name} (id bigint primary key, {columns})")
    try:
        stack.sql(f"select setseed({(seed % 1000) / 1000})")
        stack.sql(
            f"insert into {name} (id, name, price, qty, active, note, extra, at) select g, "
            "'row ' || g, round((random() * 1000)::numeric, 2), (random() * 100)::int, "
            "random() < 0.7, case when random() < 0.3 then repeat('n', 80) end, "
            f"jsonb_build_object('g', g), now() from generate_series(1, {rows}) g"
        )
        if version == "trigger":
            stack.sql(
                f"create function touch_{name}() returns trigger language plpgsql as "
                "$$begin new.updated_at := now(); return new; end$$;"
                f"create trigger touch before update on {name} "
                f"for each row execute function touch_{name}()"
            )
        stack.sql(f"alter publication supabase_realtime add table {name}")
        stack.sql(f"grant all on {name} to anon, authenticated, service_role")
        yield name
    finally:
        stack.sql(f"drop table if exists {name}")
        stack.sql(f"drop function if exists touch_{name}")


class Writer:
    """Writes to a table at random until it is stopped; a context manager around the time it does.

    One connection commits at once; another keeps transactions open for a while, so that what began
    earlier is committed later (``now()`` is older then than what others have committed).
    """

    def __init__(
        self, stack: LocalStack, table: str, rows: int, seed: int = 0, pause: float = 0.004
    ) -> None:
        self.table = table
        self.rows = rows
        self.pause = pause
        self.dice = random.Random(seed)
        self.statements = 0
        self.error: Exception | None = None
        self._dsn = stack.dsn
        self._next = rows * 10
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(scaled(30))
        if self.error is not None and not any(error):
            raise self.error

    def _run(self) -> None:
        try:
            with psycopg.connect(self._dsn) as quick, psycopg.connect(self._dsn) as late:
                quick.execute("set lock_timeout = '20ms'")
                quick.commit()
                self._write(quick, late)
        except Exception as error:  # told by the test's thread
            self.error = error

    def _write(self, quick: psycopg.Connection[Any], late: psycopg.Connection[Any]) -> None:
        commit_at: float | None = None
        while not self._stop.is_set():
            if commit_at is None and self.dice.random() < 0.02:
                late.execute(self._update(self._key()))
                commit_at = time.monotonic() + self.dice.uniform(0.05, 1.0)
            elif commit_at is not None and time.monotonic() >= commit_at:
                late.commit()
                commit_at = None
            # A row that the late one holds is left alone.
            with contextlib.suppress(psycopg.errors.LockNotAvailable):
                for statement in self._statements():
                    quick.execute(statement)
                    self.statements += 1
            refused = quick.info.transaction_status == psycopg.pq.TransactionStatus.INERROR
            if refused or self.dice.random() < 0.03:
                quick.rollback()
            else:
                quick.commit()
            time.sleep(self.dice.uniform(0, 2 * self.pause))
        late.commit()

    def _key(self) -> int:
        return self.dice.randint(1, self.rows)

    def _update(self, key: int) -> str:
        dice = self.dice
        value = dice.choice(
            (
                f"price = {dice.randint(0, 100_000) / 100}",
                f"qty = {dice.randint(0, 100)}",
                "qty = null",
                "active = not active",
                f"name = 'name {dice.randint(0, 99)}'",
                f"note = repeat('{dice.choice('abc')}', {dice.randint(0, 300)})",
                "note = null",
                f"extra = '{{\"n\": [{dice.randint(0, 9)}, null]}}'",
                "at = clock_timestamp()",
                f"price = null, at = null, note = '{dice.randint(0, 9)}'",
            )
        )
        return f"update {self.table} set {value} where id = {key}"

    def _statements(self) -> list[str]:
        """One transaction."""
        table, dice = self.table, self.dice
        key = self._key()
        match dice.choices(_KINDS, _WEIGHTS)[0]:
            case "insert":
                self._next += 1
                price = dice.randint(0, 100_000) / 100
                values = f"{self._next}, 'new', {price}, {dice.randint(0, 100)}"
                return [f"insert into {table} (id, name, price, qty) values ({values})"]
            case "delete":
                return [f"delete from {table} where id = {key}"]
            case "again":  # deleted and there again: one key, two rows, one commit
                return [
                    f"delete from {table} where id = {key}",
                    f"insert into {table} (id, name, price, qty) values ({key}, 'again', 1, 60)",
                ]
            case "key":
                self._next += 1
                return [f"update {table} set id = {self._next} where id = {key}"]
            case "many":
                upto = key + dice.randint(5, 100)
                price = dice.randint(0, 99)
                where = f"where id between {key} and {upto}"
                return [f"update {table} set price = price + {price}, active = not active {where}"]
            case "back":  # rows that were deleted come back
                upto = key + 20
                return [
                    f"insert into {table} (id, name, qty) select g, 'back', 70 "
                    f"from generate_series({key}, {upto}) g on conflict do nothing"
                ]
            case _:
                return [self._update(self._key()) for _ in range(dice.randint(1, 3))]


_KINDS: Final = ("update", "insert", "delete", "again", "key", "many", "back")
_WEIGHTS: Final = (70, 8, 8, 4, 3, 4, 3)


def true_within(
    seconds: float, stack: LocalStack, table: str, views: dict[View, nrt.LiveFrame]
) -> float:
    """Wait until every frame equals its ``SELECT`` at once; the seconds it took."""
    limit, began = scaled(seconds), time.monotonic()
    # Up to the first that is not true: each is a SELECT.
    while any(difference(view, frame, stack, table) for view, frame in views.items()):
        if time.monotonic() - began > limit:
            found = [difference(view, frame, stack, table) for view, frame in views.items()]
            if not any(found):  # by now
                break
            lines = [
                f"{said or view.name + ': true'} ({frame.status}: {frame.reason})"
                for said, (view, frame) in zip(found, views.items(), strict=True)
            ]
            raise AssertionError(f"not true after {limit:g} s:\n" + "\n".join(lines))
        time.sleep(0.1)
    return time.monotonic() - began
