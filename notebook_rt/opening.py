"""What a session opens: the part of ``Session`` that makes tables, queries and channels.

Asking twice for the same thing gives two handles on one subscription and one store, counted; the
last that is closed or garbage-collected ends it.
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
"""Messages that the server replays at most."""


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
        """What the server answers to what is asked once; a failure says so."""
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
        """What may be watched: one row a table or view that this login may read.

        Index the name (str). ``key`` and ``columns``, those it may read (tuples of str), ``published``
        (bool: whether its changes are streamed; else it is polled), ``row_security`` (bool) and ``grants``
        (tuple of str): the last three are None where only the API's description is there. Asked for with
        each look.

        Raises
        ------
        NoTablesError
            If the project tells its tables to secret keys only, as a hosted one does, and the SQL of
            ``notebook-rt doctor --sql`` is not there.
        UnreachableError, AuthError
            If no project answers, or it refuses the login.
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
        """A table as a live DataFrame.

        Parameters
        ----------
        name : str
            The table.
        filter : str, dict or list of them, optional
            Realtime's filter language: ``"user_id=eq.42,status=in.(open,held)"``, a comma for *and*,
            ``not.`` before an operator to negate it. The operators are ``eq``, ``neq``, ``lt``, ``lte``,
            ``gt``, ``gte``, ``in``, ``like``, ``ilike`` (``%`` is any text), ``is`` (``null``, ``true``,
            ``false``), ``isdistinct``, ``match`` and ``imatch`` (regular expressions). Or a dict of
            column to value, to a list of values, or to comparisons: ``{"user_id": 42, "status":
            ["open", "held"], "price": {"gte": 10, "lt": 20}}``. For *or*, a list of filters of which
            one must hold, or ``"or=(price.gte.10,status.eq.held)"``; Realtime has no *or*, so all the
            table's changes come over the socket then.
        columns : str or sequence of str, optional
            Only these, ``"name,price"`` or ``["name", "price"]`` (the key always comes along). A name
            with a comma in it needs the sequence, here and in ``key``.
        key : str or sequence of str, optional
            The columns that tell rows apart: unique and never null. Default: the primary key, as the
            optional SQL or the API's description tells it, or as it is found out by asking.
        order : str or sequence of str, optional
            ``"price.desc,name"``, ``"price.desc.nullslast"``; the key breaks ties. Default: the key's order
            at first, then the order of arrival.
        limit : int, optional
            Only the first so many rows of the order, 1 or more.
        schema : str, optional
            Another schema than the session's.
        dtype_backend : {None, "numpy_nullable", "pyarrow"}
            As in pandas' readers; `notebook_rt.model.types` has the dtype of each PostgreSQL type.
        numeric : {"float", "decimal"}, optional
            What PostgreSQL's ``numeric`` becomes: float64, or ``Decimal`` with every digit. Default:
            ``Options.numeric``.
        merge : str, function or dict of them by column, optional
            What happens to a cell that both you and somebody else changed: ``"lww"`` (default: the
            later wins, by the row's ``updated_at`` and the edit's time on the server's clock; without
            that column, yours, which reaches the server last), ``"server"`` (theirs), ``"local"``
            (yours), ``"union"`` (of lists), ``"delta"`` (numbers: your difference is added to theirs),
            ``"ask"`` (``resolve`` decides), or a function of ``(base, mine, theirs, row)`` that gives
            the value.
        lazy : bool
            Subscribe when it is first looked at, and leave when nobody looks any more.
        priority : {"normal", "high", "low"}
            Who keeps streaming when there are more channels than the project allows.
        debounce : float
            Seconds for which changes are gathered before ``on_change`` is called with all of them as
            one batch, a change a row; 0: at once. ``df`` and the widgets never wait.
        keep : bool, optional
            Keep it on disk for the next kernel, which then shows it before it has a network: ``stale``,
            as of when it was read last, until it was compared with the server. For this login only,
            with whatever its row policies let it see. Default: ``Options.keep``.
        source : {"auto", "changes", "broadcast"}, optional
            How changes come. ``"changes"``: by Postgres Changes. ``"broadcast"``: by broadcast from the
            database, for which it needs the SQL of ``notebook-rt doctor --sql TABLE``; without it the
            table is in error. ``"auto"``: so where the database does it and this login may read it,
            else by Postgres Changes. Where the SQL was made with ``--scope user_id``, the filter has to
            name the value: ``filter={"user_id": ...}``. ``repr`` says which it is. Default:
            ``Options.source``.

        Raises
        ------
        FilterError
            If the filter or the order cannot be read, or the limit is invalid.
        TypeError
            If the name or ``schema`` is no text, ``debounce`` no number, or ``keep`` neither True nor False.
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
        # A handle that nobody holds any more (its cell was run again) lets go by itself, unless it
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
        """A view, a join or a function as a live DataFrame, fetched again when a table changes.

        Realtime streams tables only; so what is made of tables is asked for again, ``debounce``
        seconds after one of them changed. Many changes are one request, never two are under way,
        and after the last change the answer that is shown was asked for later than it.

        Parameters
        ----------
        view_or_rpc : str
            The view's or the function's name.
        depends_on : str or sequence of str
            The published tables it is made of: ``"trades"``, ``"schema.trades"``, or a tuple
            ``("schema", "any.name")``. What others change is seen at the next
            ``Options.audit_interval``; with no table at all it is polled.
        params : dict, optional
            The function's arguments by name; ``{}`` says that it is a function without any.
        key : str or sequence of str, optional
            Columns that tell the rows apart: the index, and how ``on_change`` and ``.log`` compare.
            None: whole rows are compared, and the index is a ``RangeIndex``.
        filter, columns, order, limit
            As for `table`; the server applies them. Without ``order`` the rows come as the server
            gives them, and from more than ``Options.page_size`` on in the order of the key.
        debounce : float, optional
            Seconds; default ``Options.debounce``.
        dtype_backend : {None, "numpy_nullable", "pyarrow"}
            As in pandas' readers. A view's types are the server's own. A function's are inferred:
            bool, int8, float8, timestamptz, timestamp, date or text by the JSON values' form, json
            for anything mixed; a type only ever widens.
        schema : str, optional
            Another schema than the session's.

        Raises
        ------
        FilterError
            If the filter or the order cannot be read, or the limit is invalid.
        TypeError, ValueError
            If ``params`` is no dict or has no form in JSON, the name is no text, ``debounce`` is negative
            or no number, or ``dtype_backend`` is invalid.

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
        """A SQL query over tables of the project, as live as they are; DuckDB runs it here.

        Each table that the query reads is opened as by `table`, and all of its rows come here; of more
        than a few million, open what is needed with ``filter=`` and give that to `notebook_rt.sql`.

        Parameters
        ----------
        query : str
            One SELECT, in DuckDB's SQL; ``schema.table`` for another schema than the session's.
        params, key
            As for `notebook_rt.sql`.

        Returns
        -------
        SqlFrame
            The view.

        Raises
        ------
        SqlError
            If the query is no single SELECT, or cannot be parsed.
        TypeError
            If it reads no table, or ``params`` is neither a dict nor a sequence.
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
        """A channel: broadcasts and presence.

        Parameters
        ----------
        name : str
            The topic, without ``realtime:``.
        private : bool
            Whether policies on ``realtime.messages`` decide who may read and write.
        priority : {"normal", "high", "low"}
            As for tables.
        receive_own : bool
            Whether what this session sends comes back to it.
        replay : dict, optional
            ``{"since": milliseconds since the epoch, "limit": at most 25}``: private channels only.
        presence_key : str, optional
            Under which others see this session. Default: a random one, the same after reconnects.

        Raises
        ------
        TypeError
            If ``replay`` is no dict, or ``presence_key`` no text.
        ValueError
            If the name is not a valid topic, ``priority`` is invalid, ``replay`` is asked for of a public
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
    """Lets go of what was opened, once, from any thread, however often it is called."""

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
    """The server refuses the join of a channel that asks for another replay, again and again."""
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
