"""The part of ``Session`` that opens tables, queries and channels.

Requesting the same object twice returns two handles on one subscription and one store; it ends when the
last handle is closed or garbage-collected.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, get_args

from notebook_rt.edits.merge import Strategies
from notebook_rt.edits.merge import Strategy as Merge
from notebook_rt.errors import (
    ClosedError,
    NoTablesError,
    NotebookRTError,
    RateLimitedError,
    ServerError,
    UnreachableError,
)
from notebook_rt.hints import known_keywords
from notebook_rt.model.filters import FilterSource, parse
from notebook_rt.model.order import parse_order
from notebook_rt.model.plain import duration
from notebook_rt.model.spec import Source, TableSpec, check_text, parse_names
from notebook_rt.model.types import Backend, Numeric
from notebook_rt.net.loop import LoopThread
from notebook_rt.options import Options
from notebook_rt.runtime.project import Project
from notebook_rt.runtime.table_edits import TableEdits
from notebook_rt.runtime.writes import Writes
from notebook_rt.sync.connection.joins import Priority
from notebook_rt.sync.events import Page
from notebook_rt.sync.table.discovery import Watchable, listed
from notebook_rt.table import LiveTable

if TYPE_CHECKING:
    import pandas as pd

    from notebook_rt.channel import Channel
    from notebook_rt.query import LiveQuery
    from notebook_rt.sqlview import SqlFrame

REPLAYED: Final = 25
"""Maximum number of messages that the server replays."""


class Opening:
    """The tables, queries and channels of a ``Session``."""

    schema: str
    options: Options
    _thread: LoopThread
    _project: Project
    _writes: Writes

    if TYPE_CHECKING:  # Session's

        def _check(self) -> None: ...

    def _asked(self, asking: Coroutine[Any, Any, Page]) -> Page:
        """Return the server's answer to a single request; raise if it fails."""
        try:
            return self._thread.wait(asking)
        except (ServerError, RateLimitedError) as error:
            failed: NotebookRTError = error.once()
        except UnreachableError as error:
            failed = self._project.services.known(error)
        raise failed

    # Tables

    @property
    def tables(self) -> pd.DataFrame:
        """The tables and views that this login can read, one row each, as a DataFrame.

        The index is the name (str). Columns: ``key`` and ``columns`` (tuples of str), ``published`` (bool:
        whether changes are streamed; otherwise the table is polled), ``row_security`` (bool) and ``grants``
        (tuple of str). The last three are None if only the API's description is available. The server is
        asked with each access.

        Raises
        ------
        NoTablesError
            If the project describes its tables to secret keys only, as hosted projects do, and does not have
            the SQL of ``notebook-rt doctor --sql``.
        UnreachableError, AuthError
            If the project does not answer, or refuses the login.
        """
        self._check()
        page = self._asked(self._project.rest.describe(self.schema, None))
        found = listed(page.value)
        if found is None:
            raise NoTablesError(self.schema, hidden=page.refusal is not None)
        return _tables_df(found)

    @known_keywords
    def table(
        self,
        name: str,
        *,
        filter: FilterSource = None,
        columns: str | Sequence[str] | None = None,
        key: str | Sequence[str] | None = None,
        order: str | Sequence[str] | None = None,
        limit: int | None = None,
        schema: str | None = None,
        dtype_backend: Backend = None,
        numeric: Numeric | None = None,
        merge: Merge | Mapping[str, Merge] | None = None,
        lazy: bool = False,
        priority: Priority = "normal",
        debounce: float = 0.0,
        keep: bool | None = None,
        source: Source | None = None,
    ) -> LiveTable:
        """Return a table as a live DataFrame.

        Parameters
        ----------
        name : str
            The name of the table.
        filter : str, dict or list of them, optional
            A filter in Realtime's syntax: ``"user_id=eq.42,status=in.(open,held)"``, a comma for *and*,
            ``not.`` before an operator to negate it. The operators are ``eq``, ``neq``, ``lt``, ``lte``,
            ``gt``, ``gte``, ``in``, ``like``, ``ilike`` (``%`` is any text), ``is`` (``null``, ``true``,
            ``false``), ``isdistinct``, ``match`` and ``imatch`` (regular expressions). Or a dict of
            column to value, to a list of values, or to comparisons: ``{"user_id": 42, "status":
            ["open", "held"], "price": {"gte": 10, "lt": 20}}``. For *or*, a list of filters, or
            ``"or=(price.gte.10,status.eq.held)"``; Realtime has no *or*, so all changes of the table are
            received then.
        columns : str or sequence of str, optional
            Only these columns, ``"name,price"`` or ``["name", "price"]`` (the key is always included). A
            name with a comma requires the sequence, here and in ``key``.
        key : str or sequence of str, optional
            The columns that identify a row: unique and never null. Default: the primary key, known from the
            optional SQL or the API's description, or found by requests.
        order : str or sequence of str, optional
            ``"price.desc,name"``, ``"price.desc.nullslast"``; the key breaks ties. Default: the order of
            the key for the first read, then the order of arrival.
        limit : int, optional
            Only this many rows, the first ones of the order; 1 or more.
        schema : str, optional
            A schema other than the session's.
        dtype_backend : {None, "numpy_nullable", "pyarrow"}
            As in pandas' readers; `notebook_rt.model.types` lists the dtype of each PostgreSQL type.
        numeric : {"float", "decimal"}, optional
            The dtype of PostgreSQL's ``numeric``: float64, or ``Decimal`` with every digit. Default:
            ``Options.numeric``.
        merge : str, function or dict of them by column, optional
            How to merge a cell that both you and another client changed: ``"lww"`` (default: the later
            change wins, by the row's ``updated_at`` and the edit's time on the server's clock; without
            that column, yours, which reaches the server last), ``"server"`` (theirs), ``"local"``
            (yours), ``"union"`` (of lists), ``"delta"`` (numbers: your difference is added to theirs),
            ``"ask"`` (you call ``resolve``), or a function of ``(base, mine, theirs, row)`` that returns
            the value.
        lazy : bool
            Subscribe when the table is first used, and leave when it is no longer used.
        priority : {"normal", "high", "low"}
            Which tables keep streaming if there are more channels than the project allows.
        debounce : float
            Seconds for which changes are collected before ``on_change`` is called with one batch of them,
            one change per row; 0: at once. ``df`` and the widgets never wait.
        keep : bool, optional
            Store the table on disk, for this login only. The next kernel shows it before it has a network,
            with the status ``stale`` and the time of the last read, until it was compared with the server.
            Default: ``Options.keep``.
        source : {"auto", "changes", "broadcast"}, optional
            How changes are received. ``"changes"``: Postgres Changes. ``"broadcast"``: broadcast from the
            database, which needs the SQL of ``notebook-rt doctor --sql TABLE``; without it the table is in
            error. ``"auto"``: broadcast if the database has that SQL and the login may read the topic, else
            Postgres Changes. If the SQL was created with ``--scope user_id``, the filter must contain
            the value: ``filter={"user_id": ...}``. ``repr`` shows the source. Default:
            ``Options.source``.

        Raises
        ------
        FilterError
            If the filter or the order cannot be read, or the limit is invalid.
        TypeError
            If the name or ``schema`` is not a string, ``debounce`` not a number, or ``keep`` not a bool.
        ValueError
            If ``debounce`` is negative, an option has an invalid value, or the name is ``"."`` or ``".."``.

        Examples
        --------
        >>> dear = rt.table("prices", filter="price=gte.100", order="price.desc", limit=20)  # doctest: +SKIP
        >>> stock = rt.table("stock", merge={"pieces": "delta", "tags": "union"})  # doctest: +SKIP
        """
        self._check()
        debounce = duration(debounce, "debounce")
        if not isinstance(keep, bool | None):
            raise TypeError(f"keep must be True, False or None, not {keep!r}")
        _one_of("priority", priority, Priority)
        _one_of("dtype_backend", dtype_backend, Backend)
        if source is not None:
            _one_of("source", source, Source)
        if numeric is not None:
            _one_of("numeric", numeric, Numeric)
        merged = merge if isinstance(merge, Mapping) else {}
        spec = TableSpec(
            table=name,
            schema=schema or self.schema,
            filter=parse(filter),
            columns=parse_names(columns),
            key=parse_names(key),
            order=parse_order(order),
            limit=limit,
            numeric=numeric or self.options.numeric,
            source=self.options.source if source is None else source,
            named=tuple(map(str, merged)),
            summed=tuple(str(column) for column, rule in merged.items() if rule == "delta"),
            united=tuple(str(column) for column, rule in merged.items() if rule == "union"),
        )
        shared_as, driver = self._thread.call(
            self._project.table, spec, dtype_backend, priority, _strategies(merge), lazy, keep
        )
        release = _Release(self._thread, self._project, shared_as, priority)
        frame = LiveTable(driver, release, self, TableEdits(self._writes, driver), debounce)
        # A handle that is no longer referenced (its cell was run again) is released, unless it
        # has a listener: the listener holds it.
        weakref.finalize(frame, release).atexit = False
        return frame

    @known_keywords
    def query(
        self,
        view_or_rpc: str,
        *,
        depends_on: str | Sequence[str | tuple[str, str]] = (),
        params: Mapping[str, Any] | None = None,
        key: str | Sequence[str] | None = None,
        filter: FilterSource = None,
        columns: str | Sequence[str] | None = None,
        order: str | Sequence[str] | None = None,
        limit: int | None = None,
        debounce: float | None = None,
        dtype_backend: Backend = None,
        schema: str | None = None,
    ) -> LiveQuery:
        """Return a view, a join or a function as a live DataFrame, fetched again when a table changes.

        Realtime streams tables only, so the view is fetched again ``debounce`` seconds after one of its
        tables changed. Many changes cause one request, and there is one request at a time. After the last
        change, the answer shown was requested later than the change.

        Parameters
        ----------
        view_or_rpc : str
            The name of the view or function.
        depends_on : str or sequence of str
            The published tables that it reads: ``"trades"``, ``"schema.trades"``, or a tuple
            ``("schema", "any.name")``. Changes of other tables are seen after the next
            ``Options.audit_interval``; without any table, the view is polled.
        params : dict, optional
            The function's arguments by name; ``{}`` for a function without arguments.
        key : str or sequence of str, optional
            Columns that identify a row: the index, used to compare in ``on_change`` and ``.log``.
            None: whole rows are compared, and the index is a ``RangeIndex``.
        filter, columns, order, limit
            As for `table`; applied by the server. Without ``order``, the rows have the server's order, and
            above ``Options.page_size`` rows the order of the key.
        debounce : float, optional
            Seconds; default ``Options.debounce``.
        dtype_backend : {None, "numpy_nullable", "pyarrow"}
            As in pandas' readers. A view's types are the server's own. A function's are inferred:
            bool, int8, float8, timestamptz, timestamp, date or text by the JSON values' form, json
            for anything mixed; a type only ever widens.
        schema : str, optional
            A schema other than the session's.

        Raises
        ------
        FilterError
            If the filter or the order cannot be read, or the limit is invalid.
        TypeError, ValueError
            If ``params`` is not a dict or cannot be written as JSON, the name is not a string, ``debounce``
            is negative or not a number, or ``dtype_backend`` is invalid.

        Examples
        --------
        >>> totals = rt.query("daily_totals", depends_on="trades", key="day")  # doctest: +SKIP
        >>> top = rt.query("top_traders", depends_on="trades", params={"n": 5})  # doctest: +SKIP
        """
        self._check()
        _one_of("dtype_backend", dtype_backend, Backend)
        from notebook_rt.query import LiveQuery, query_spec

        spec = query_spec(
            view_or_rpc,
            schema or self.schema,
            self.options,
            depends_on=depends_on,
            params=params,
            key=key,
            filter=filter,
            columns=columns,
            order=order,
            limit=limit,
            debounce=debounce,
        )
        shared_as, driver = self._thread.call(self._project.query, spec, dtype_backend)
        release = _Release(self._thread, self._project, shared_as)
        query = LiveQuery(driver, release, self)
        weakref.finalize(query, release).atexit = False
        return query

    @known_keywords
    def sql(
        self,
        query: str,
        params: Mapping[str, Any] | Sequence[Any] | None = None,
        /,
        *,
        key: str | Sequence[str] | None = None,
    ) -> SqlFrame:
        """Return a live SQL query over tables of the project, run by DuckDB in this process.

        Each table that the query reads is opened as by `table`, and all its rows are loaded. For more
        than a few million rows, open a table with ``filter=`` and pass it to `notebook_rt.sql`.

        Parameters
        ----------
        query : str
            One SELECT in DuckDB's SQL; ``schema.table`` for a schema other than the session's.
        params, key
            As for `notebook_rt.sql`.

        Returns
        -------
        SqlFrame
            The view.

        Raises
        ------
        SqlError
            If the query is not a single SELECT, or cannot be parsed.
        TypeError
            If the query reads no table, or ``params`` is neither a dict nor a sequence.
        ImportError
            If DuckDB is not installed: ``pip install 'notebook_rt[sql]'``.

        Examples
        --------
        >>> rt.sql("select sector, avg(price) from stocks group by all", key="sector").df  # doctest: +SKIP
        """
        self._check()
        from notebook_rt.sqlview import made

        return made(query, params, lambda name: self.table(name[1], schema=name[0] or None), key)

    # Channels

    def channel(
        self,
        name: str,
        *,
        private: bool = False,
        priority: Priority = "normal",
        receive_own: bool = False,
        replay: Mapping[str, int] | None = None,
        presence_key: str | None = None,
    ) -> Channel:
        """Return a channel, for broadcasts and presence.

        Parameters
        ----------
        name : str
            The topic, without ``realtime:``.
        private : bool
            Whether policies on ``realtime.messages`` decide who may read and write.
        priority : {"normal", "high", "low"}
            As for tables.
        receive_own : bool
            Whether the session receives its own broadcasts.
        replay : dict, optional
            ``{"since": milliseconds since the epoch, "limit": at most 25}``: private channels only.
        presence_key : str, optional
            The key under which other clients see this session. Default: random, the same after reconnects.

        Raises
        ------
        TypeError
            If ``replay`` is not a dict, or ``presence_key`` not a string.
        ValueError
            If the name is not a valid topic, ``priority`` is invalid, ``replay`` is given for a public
            channel or has other fields, or the channel is open in this session with other settings.

        Examples
        --------
        >>> room = rt.channel("room:floor")  # doctest: +SKIP
        >>> room.on("price", print)  # doctest: +SKIP
        """
        self._check()
        _one_of("priority", priority, Priority)
        if not isinstance(replay, Mapping | None):
            raise TypeError(
                f'replay must be a dict, such as {{"since": 1_700_000_000_000, "limit": 25}}, not {replay!r}'
            )
        if replay is not None:
            _check_replay(replay, private)
        check_text(presence_key, "presence_key")
        from notebook_rt.channel import Channel, check_topic

        shared_as, room = self._thread.call(
            self._project.room,
            check_topic(name),
            private=private,
            priority=priority,
            receive_own=receive_own,
            replay=replay,
            presence_key=presence_key,
        )
        release = _Release(self._thread, self._project, shared_as, priority)
        channel = Channel(room, release, self, self._writes.broadcast)
        weakref.finalize(channel, release).atexit = False
        return channel


class _Release:
    """Releases an opened object once, from any thread, even if it is called several times."""

    def __init__(
        self,
        thread: LoopThread,
        project: Project,
        shared_as: object,
        priority: Priority = "normal",
    ) -> None:
        self._thread = thread
        self._project = project
        self._given = shared_as, priority
        self._done = False

    def __call__(self) -> None:
        if not self._done:
            self._done = True
            with contextlib.suppress(ClosedError):
                self._thread.post(self._project.let_go, *self._given)


def _one_of(name: str, given: object, kind: object) -> None:
    known = [value for part in get_args(kind) for value in (get_args(part) or (part,))]
    known = [None if value is type(None) else value for value in known]
    if given not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, not {given!r}")


def _check_replay(replay: Mapping[str, Any], private: bool) -> None:
    """Raise for a replay that the server would refuse with every join."""
    if not private:
        raise ValueError(
            "replay is for private channels only: channel(name, private=True, replay=...)"
        )
    since, limit = replay.get("since"), replay.get("limit", REPLAYED)
    numbers = all(isinstance(one, int) and not isinstance(one, bool) for one in (since, limit))
    if not numbers or not 1 <= limit <= REPLAYED or not {*replay} <= {"since", "limit"}:
        raise ValueError(
            "replay takes since, whole milliseconds since 1970, and limit, at most "
            f'{REPLAYED}: {{"since": 1_700_000_000_000, "limit": {REPLAYED}}}, not {dict(replay)!r}'
        )


def _strategies(merge: Merge | Mapping[str, Merge] | None) -> Strategies | None:
    if merge is None:
        return None
    return Strategies(columns=merge) if isinstance(merge, Mapping) else Strategies(merge)


def _tables_df(tables: Sequence[Watchable]) -> pd.DataFrame:
    import pandas as pd

    rows = [
        {
            "key": one.described.key,
            "columns": one.described.readable
            or tuple(column.name for column in one.described.columns),
            "published": one.described.published,
            "row_security": one.described.row_security,
            "grants": one.described.grants,
        }
        for one in tables
    ]
    index = pd.Index([one.name for one in tables], name="table", dtype="str")
    columns = ["key", "columns", "published", "row_security", "grants"]
    return pd.DataFrame(rows, index=index, columns=columns)
