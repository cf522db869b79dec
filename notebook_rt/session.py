"""``connect`` and ``Session``: one project, one login, everything live that is made of it.

A session shares: asking twice for the same table gives two handles on one subscription and one
store, counted, gone with the last. What it does runs on the process' loop thread; its methods are
synchronous and thread-safe.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from notebook_rt.errors import AuthError, ClosedError, UnreachableError
from notebook_rt.filters import parse
from notebook_rt.frame import LiveFrame
from notebook_rt.net.callbacks import Mailbox, discard
from notebook_rt.net.credentials import Credentials
from notebook_rt.net.loop import LoopThread, shared
from notebook_rt.net.project import Project, Token
from notebook_rt.options import Options
from notebook_rt.store.types import Backend
from notebook_rt.sync.health import Health
from notebook_rt.sync.joins import Priority
from notebook_rt.sync.merge import Strategies
from notebook_rt.sync.merge import Strategy as Merge
from notebook_rt.sync.spec import TableSpec, parse_names, parse_order
from notebook_rt.sync.supervisor import State
from notebook_rt.writes import Writes

if TYPE_CHECKING:
    import pandas as pd

    from notebook_rt.channel import Channel, Presence
    from notebook_rt.outbox.view import QueueView
    from notebook_rt.query import LiveQuery
    from notebook_rt.widgets.notes import NotesWidget
    from notebook_rt.widgets.statusbar import StatusBar


def connect(
    url: str | None = None,
    key: str | None = None,
    *,
    schema: str = "public",
    access_token: str | None = None,
    queue_path: str | Path | None = None,
    options: Options | None = None,
) -> Session:
    """Connect to a Supabase project.

    Returns at once; the connection is made in the background, and what is wrong with it is raised
    where data is waited for.

    Parameters
    ----------
    url : str, optional
        The project's URL. Default: ``$SUPABASE_URL``; where that is not set, or for ``"local"``,
        the embedded stack of this machine is started, or attached to if it runs.
    key : str, optional
        The anon or publishable key. Default: ``$SUPABASE_KEY``. ``.env`` files are not read.
    schema : str
        Where tables are looked for.
    access_token : str, optional
        A user's token; see also `Session.sign_in`.
    queue_path : path, optional
        The file of unsent writes. Default: one for each project and login, in the user's data
        directory.
    options : Options, optional
        Every number of the package.

    Raises
    ------
    UnreachableError
        If ``url`` is no URL.
    AuthError
        If there is no key.
    """
    if url is None:
        url = os.environ.get("SUPABASE_URL") or None
        if url is None:
            return _connect_local(schema, queue_path, options, asked=False)
    if url == "local":
        return _connect_local(schema, queue_path, options, asked=True)
    key = key or os.environ.get("SUPABASE_KEY") or None
    if key is None:
        raise AuthError("login: no key is given, and SUPABASE_KEY is not set", url)
    return Session(
        url, key, schema=schema, access_token=access_token, queue_path=queue_path, options=options
    )


def _connect_local(
    schema: str, queue_path: str | Path | None, options: Options | None, *, asked: bool
) -> Session:
    from notebook_rt import local

    stack = local.start()
    if not asked:
        print(f"notebook_rt: SUPABASE_URL is not set, using the local stack at {stack.url}")
    return Session(
        stack.url,
        stack.anon_key,
        schema=schema,
        queue_path=queue_path,
        options=options,
        stack=stack,
    )


class Session:
    """A project, live. Made by `connect`; use it as a context manager or ``close()`` it.

    It also closes when nothing holds it or one of its frames any more.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        schema: str = "public",
        access_token: str | None = None,
        queue_path: str | Path | None = None,
        options: Options | None = None,
        stack: Any = None,
    ) -> None:
        self.url = _normal(url)
        self.schema = schema
        self.options = options or Options()
        self.stack = stack
        """The local stack, where the session uses it."""
        self._thread: LoopThread = shared()
        self._project = self._thread.call(
            Project, self.url, Credentials(key, access_token), self.options, self._thread
        )
        self._writes = Writes(self._project, queue_path)
        self._finalizer = weakref.finalize(self, _close_soon, self._project)
        self._finalizer.atexit = False

    def __repr__(self) -> str:
        state = "closed" if self._project.closed else self.state
        return f"<Session {self.url} {state}, {len(self._project.tables)} tables>"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> Any:
        if self._project.closed:
            return {"text/plain": repr(self)}
        return _show("session_bundle", self)

    # Tables

    def table(
        self,
        name: str,
        *,
        filter: str | Mapping[str, Any] | None = None,
        columns: str | Sequence[str] | None = None,
        key: str | Sequence[str] | None = None,
        order: str | Sequence[str] | None = None,
        limit: int | None = None,
        schema: str | None = None,
        dtype_backend: Backend = None,
        merge: Merge | Mapping[str, Merge] | None = None,
        lazy: bool = False,
        priority: Priority = "normal",
    ) -> LiveFrame:
        """A table as a live DataFrame.

        Parameters
        ----------
        name : str
            The table.
        filter : str or dict, optional
            Realtime's filter language, ``"user_id=eq.42,status=in.(open,held)"``, or a dict of
            equalities.
        columns : str or sequence of str, optional
            Only these (the key always comes along).
        key : str or sequence of str, optional
            The key's columns, where the server does not say.
        order : str or sequence of str, optional
            ``"price.desc,name"``.
        limit : int, optional
            Only the first so many rows of the order.
        schema : str, optional
            Another schema than the session's.
        dtype_backend : {None, "numpy_nullable", "pyarrow"}
            As in pandas' readers.
        merge : str, function or dict of them by column, optional
            What happens to a cell that both you and somebody else changed: ``"lww"`` (default: the
            later wins), ``"server"``, ``"local"``, ``"union"``, ``"delta"``, ``"ask"``, or a function
            of ``(base, mine, theirs, row)``.
        lazy : bool
            Subscribe when it is first looked at, and leave when nobody looks any more.
        priority : {"normal", "high", "low"}
            Who keeps streaming when there are more channels than the project allows.

        Raises
        ------
        FilterError
            If the filter or the order cannot be read.
        """
        self._check()
        spec = TableSpec(
            table=name,
            schema=schema or self.schema,
            filter=parse(filter),
            columns=parse_names(columns),
            key=parse_names(key),
            order=parse_order(order),
            limit=limit,
            numeric=self.options.numeric,
        )
        shared_as, driver = self._thread.call(
            self._project.table, spec, dtype_backend, priority, _strategies(merge), lazy
        )
        release = _Release(self._thread, self._project, shared_as)
        frame = LiveFrame(driver, release, self, self._writes.table(driver))
        # A handle that nobody holds any more (its cell was run again) lets go by itself, unless it
        # has a listener: the listener holds it.
        weakref.finalize(frame, release).atexit = False
        return frame

    def query(
        self,
        view_or_rpc: str,
        *,
        depends_on: str | Sequence[str | tuple[str, str]] = (),
        params: Mapping[str, Any] | None = None,
        key: str | Sequence[str] | None = None,
        filter: str | Mapping[str, Any] | None = None,
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
            As in pandas' readers. A view's types are the API's description's. A function's (and a
            view's that is described to nobody) are inferred: bool, int8, float8, timestamptz,
            timestamp, date or text by the JSON values' form, json for anything mixed; a type only
            ever widens.
        schema : str, optional
            Another schema than the session's.

        Raises
        ------
        FilterError
            If the filter or the order cannot be read.
        TypeError, ValueError
            If a parameter has no form in JSON.
        """
        self._check()
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
        ValueError
            If the name is none, or the channel is open with other settings.
        """
        self._check()
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
        release = _Release(self._thread, self._project, shared_as)
        channel = Channel(room, release, self, self._writes.broadcast)
        weakref.finalize(channel, release).atexit = False
        return channel

    @property
    def queue(self) -> QueueView:
        """What waits to be sent: ``len``, ``.df``, ``.retry``, ``.discard``, ``.flush``; displays as
        its widget.
        """
        self._check()
        return self._writes.queue(partial(_show, "queue_bundle"))

    # How it goes

    def status_bar(self, presence: Presence | None = None) -> StatusBar:
        """Health, unsaved writes and, if given, people in one line: a widget."""
        from notebook_rt.widgets import display

        return display.status_bar(self, presence)

    def notes(self) -> NotesWidget:
        """What happens, as a few lines: merged, queued, failed, live again. A widget."""
        from notebook_rt.widgets import display

        return display.notes(self)

    @property
    def state(self) -> State:
        """``disconnected``, ``connecting``, ``connected`` or ``reconnecting``."""
        return self._project.state

    @property
    def health(self) -> Health:
        """One word, worst first, and why; displays as its widget."""
        return replace(self._project.health(), display=partial(_show, "health_bundle", self))

    @property
    def metrics(self) -> SessionMetrics:
        """What is counted, as ``.as_dict()`` and ``.df``."""
        return SessionMetrics(self._project.metrics())

    def retry(self) -> None:
        """Try to connect now, from zero."""
        self._check()
        self._thread.post(self._project.connection.retry, "user")

    def on_state(self, fn: Callable[[State, str], Any]) -> Callable[[], None]:
        """Call ``fn(state, reason)`` with each new state, on a thread of its own.

        Returns
        -------
        callable
            Call it to unsubscribe.
        """
        return self._listen(fn, "Session.on_state", self._project.state_listeners)

    def on_health(self, fn: Callable[[Health], Any]) -> Callable[[], None]:
        """Call ``fn(health)`` when the verdict or the latency may be another one, on a thread of its
        own.

        Returns
        -------
        callable
            Call it to unsubscribe.
        """
        return self._listen(fn, "Session.on_health", self._project.health_listeners)

    def on_note(self, fn: Callable[[str, str], Any]) -> Callable[[], None]:
        """Call ``fn(kind, text)`` with what is worth a line: ``"merged"``, ``"queued"``,
        ``"failed"``, ``"live"``, ``"info"``; on a thread of its own.

        Returns
        -------
        callable
            Call it to unsubscribe.
        """
        return self._listen(fn, "Session.on_note", self._project.note_listeners)

    def _listen(
        self, fn: Callable[..., Any], what: str, listeners: list[Any]
    ) -> Callable[[], None]:
        self._check()
        box = Mailbox(fn, what=what)
        self._thread.call(listeners.append, box.put)

        def remove() -> None:
            box.close()
            self._thread.post(discard, listeners, box.put)

        return remove

    # Who we are

    def sign_in(self, **credentials: Any) -> Mapping[str, Any]:
        """Sign in with ``email=`` (or ``phone=``) and ``password=``; the token refreshes itself.

        Returns
        -------
        mapping
            The user, as the server describes them.

        Raises
        ------
        AuthError
            If the server does not accept them.
        """
        self._check()
        return self._thread.wait(self._project.sign_in(credentials))

    def set_auth(self, token: Token) -> None:
        """Use this access token from now on; None: back to the key.

        Parameters
        ----------
        token : str, callable or None
            A function (or coroutine function) is called for a fresh token whenever one is needed.
        """
        self._check()
        self._thread.wait(self._project.set_auth(token))

    # The end

    def close(self) -> None:
        """Leave every channel, close the socket, stop every timer. Frames keep their last data."""
        self._finalizer.detach()
        project = self._project
        if project.closed or self._thread.pid != os.getpid() or self._thread.loop.is_closed():
            return
        with contextlib.suppress(TimeoutError):
            self._thread.wait(project.aclose(), 5.0)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _check(self) -> None:
        if self._project.closed:
            raise ClosedError("this session")


class SessionMetrics:
    """The numbers of a session at one moment."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def as_dict(self) -> dict[str, Any]:
        return dict(self._values)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    @property
    def df(self) -> pd.DataFrame:
        """One row a metric, index its name, column ``value``."""
        import pandas as pd

        return pd.DataFrame({"value": pd.Series(self._values, dtype=object)})

    def __repr__(self) -> str:
        return f"SessionMetrics({self._values!r})"

    def _repr_html_(self) -> str:
        return str(self.df.to_html())


class _Release:
    """Lets go of a table once, from any thread, however often it is called."""

    def __init__(self, thread: LoopThread, project: Project, shared_as: object) -> None:
        self._thread = thread
        self._project = project
        self._shared_as = shared_as
        self._done = False

    def __call__(self) -> None:
        if not self._done:
            self._done = True
            with contextlib.suppress(ClosedError):
                self._thread.post(self._project.let_go, self._shared_as)


def _show(how: str, what: object) -> Any:
    """The form for a front end; a script never loads a widget."""
    from notebook_rt.widgets import display

    return getattr(display, how)(what)


def _close_soon(project: Project) -> None:
    with contextlib.suppress(ClosedError, RuntimeError):
        project.thread.submit(project.aclose())


def _strategies(merge: Merge | Mapping[str, Merge] | None) -> Strategies | None:
    if merge is None:
        return None
    return Strategies(columns=merge) if isinstance(merge, Mapping) else Strategies(merge)


def _normal(url: str) -> str:
    """``url`` with a scheme and without a slash at its end."""
    text = url.strip().rstrip("/")
    if "://" not in text:
        text = f"https://{text}"
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or len(text.split()) != 1:
        raise UnreachableError(url, "this is no URL of a Supabase project")
    return text
