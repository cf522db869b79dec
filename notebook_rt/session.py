"""``connect`` and ``Session``: one project with one login, and its live objects.

A session shares resources: requesting the same table twice returns two handles on one subscription and one
store, which are released with the last handle. The work runs on the loop thread of the process; the methods
are synchronous and thread-safe.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import warnings
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from notebook_rt.disk import cache
from notebook_rt.errors import (
    ClosedError,
    LoginError,
    MissingQueryError,
    NoProjectError,
    RefusedError,
    UnreachableError,
)
from notebook_rt.hints import known_keywords, of_session, public
from notebook_rt.model.spec import check_text
from notebook_rt.net import ways
from notebook_rt.net.address import (
    environment_key,
    environment_url,
    is_client,
    is_loopback,
    is_secret,
    project_key,
    project_url,
    warn_if_readable,
)
from notebook_rt.net.credentials import Credentials, check_jwt, checked_token
from notebook_rt.net.followed import FollowedClient
from notebook_rt.net.login import Token
from notebook_rt.net.loop import LoopThread, shared
from notebook_rt.opening import Opening
from notebook_rt.options import Options
from notebook_rt.queue import Queue, arguments
from notebook_rt.runtime.callbacks import Clock, Mailbox, Subscribers
from notebook_rt.runtime.host import at_session_end, has_front_end, is_interactive, running
from notebook_rt.runtime.metrics import SessionMetrics
from notebook_rt.runtime.project import Project
from notebook_rt.runtime.writes import Writes
from notebook_rt.sync.connection.health import Health
from notebook_rt.sync.events import Query

if TYPE_CHECKING:
    from notebook_rt.channel import Presence
    from notebook_rt.local import LocalStack
    from notebook_rt.net.address import SupabaseClient

    # A property's Literal must be unknown at run time: jedi, which completes names for IPython and
    # Jupyter, fails over it and offers none (davidhalter/jedi#1990).
    from notebook_rt.sync.connection.supervisor import State
    from notebook_rt.widgets.notes import NotesWidget
    from notebook_rt.widgets.statusbar import StatusBar


def connect(
    url: str | SupabaseClient | None = None,
    key: str | None = None,
    *,
    schema: str | None = None,
    access_token: str | None = None,
    queue_path: str | Path | None = None,
    options: Options | None = None,
) -> Session:
    """Connect to a Supabase project.

    Returns at once; the connection is made in the background, and its errors are raised by the methods that
    wait for data.

    Parameters
    ----------
    url : str or supabase client, optional
        The project's URL, as in the dashboard or Supabase's libraries, or its reference.
        Or a client returned by ``supabase.create_client`` or ``acreate_client``: its URL, key, schema
        and login are used, and its sign-ins, refreshes and sign-outs are followed until
        `Session.sign_in` or `Session.set_auth` is called on the session.

        ``"local"`` starts the embedded stack of this machine, or attaches to it if it runs.
        Default: ``$SUPABASE_URL``. If no variable names a project, a notebook or an interactive prompt uses
        the embedded stack and reports that; a script raises `NoProjectError`.
    key : str, optional
        The publishable (or anon) key. Default: ``$SUPABASE_KEY``; for the embedded stack its own
        anon key. ``.env`` files are not read. A secret key bypasses every policy: a notebook warns about
        it once.
    schema : str, optional
        The PostgreSQL schema of tables and functions. Default: the client's, else
        ``"public"``.
    access_token : str, optional
        A user's token (a JWT); see also `Session.sign_in`.
    queue_path : path, optional
        The file of unsent writes. Default: one for each project and login, in the user's state
        directory. Sessions can share one: each login sees and sends only its own writes.
    options : Options, optional
        The settings of the session, such as ``nrt.Options(poll_interval=2.0)``.

    Returns
    -------
    Session
        The session; it connects in the background.

    Raises
    ------
    UnreachableError
        If ``url`` is not the URL of a project.
    NoKeyError
        If there is no key, or the given one is not valid.
    NoProjectError
        If no project is named: in a script, or if a key is given or another variable, such as
        ``NEXT_PUBLIC_SUPABASE_URL``, looks like a project's.
    QueueError
        If ``queue_path`` is a file that is not a queue, or cannot be opened.
    StackError
        If the embedded stack cannot be started; `notebook_rt.local.start` lists the reasons.
    TypeError, ValueError
        If an argument has the wrong type: ``options`` that are not `Options`, an invalid token.

    Examples
    --------
    >>> with connect("https://x.supabase.co", "sb_publishable_x") as rt:  # doctest: +SKIP
    ...     rt.table("prices").wait(timeout=10).df
    """
    if url is not None and is_client(url):
        client: Any = url
        session = Session(
            client.supabase_url,
            key or client.supabase_key,
            schema=schema or client.options.schema,
            access_token=access_token,
            queue_path=queue_path,
            options=options,
            client=None if access_token else client,
        )
        return connected(session)
    stack = None
    if url is None and (url := environment_url(os.environ, has_key=bool(key))) is None:
        if not is_interactive():
            raise NoProjectError([])
        stack = _embedded()
        print(f"notebook_rt: SUPABASE_URL is not set, using the embedded stack at {stack.url}")
    elif url == "local":
        stack = _embedded()
    if stack is not None:
        url, key = stack.url, key or stack.anon_key
    return connected(
        Session(
            url,
            key or environment_key(os.environ, project_url(url)),
            schema=schema or "public",
            access_token=access_token,
            queue_path=queue_path,
            options=options,
            stack=stack,
        )
    )


def _embedded() -> LocalStack:
    from notebook_rt import local

    return local.start()


_warned_of_secret = False


def _warn_of_secret(credentials: Credentials, url: str) -> None:
    """Warn once per process; not for a stack on this machine, whose keys are valid nowhere else."""
    global _warned_of_secret
    if _warned_of_secret or not has_front_end() or is_loopback(url):
        return
    if is_secret(credentials.key, credentials.key_role):
        _warned_of_secret = True
        text = (
            "notebook_rt: this is a secret key. It passes every policy of the project, and whoever "
            "gets the notebook with the key in it can read and change everything. Use the "
            "publishable (or anon) key and sign in, rt.sign_in(email=..., password=...); where it "
            "has to be this one, keep it out of the notebook: SUPABASE_KEY in the environment."
        )
        warnings.warn(text, stacklevel=4)


CLOSE_SECONDS = 5.0
"""Maximum duration of ``close`` in seconds; the rest continues in the background."""

_cells: dict[str, list[tuple[object, str, weakref.ref[Session]]]] = {}
"""The sessions that each notebook cell opened: in which run of the cell, to which project."""


def connected(session: Session, project: str | None = None) -> Session:
    """Close the session that an earlier run of the same cell opened to the same project.

    Callbacks, presence and the kernel's output cache would otherwise keep it alive forever.
    ``project`` identifies the project if its URL is different each time.
    """
    project = project or session.url
    at_session_end(
        session._finalizer
    )  # when a visitor leaves a marimo app, their sessions are closed
    run = running()
    if run is None or run.cell is None:
        return session
    made = [(run.number, project, weakref.ref(session))]
    for number, name, each in _cells.get(run.cell, []):
        old = each()
        if old is None:
            continue
        if number != run.number and name == project:
            old._finalizer()
        else:
            made.append((number, name, each))
    _cells[run.cell] = made
    return session


class Session(Opening):
    """A connection to a project. Returned by `connect`; use it as a context manager or call ``close()``.

    It also closes when neither it nor one of its frames is referenced any more, and when the cell that
    opened it is run again and connects to the same project. After that, calls that need the server raise
    `ClosedError`.
    """

    def __init__(
        self,
        url: object,
        key: str | None,
        *,
        schema: str = "public",
        access_token: str | None = None,
        queue_path: str | Path | None = None,
        options: Options | None = None,
        stack: LocalStack | None = None,
        client: SupabaseClient | None = None,
    ) -> None:
        self.url = project_url(url)
        warn_if_readable(self.url, stacklevel=3)  # the caller of connect()
        check_text(schema, "schema")
        self.schema = schema
        if not isinstance(options, Options | None):
            raise TypeError(f"options are nrt.Options(poll_interval=2.0, ...), not {options!r}")
        if access_token is not None:
            check_jwt(checked_token(access_token))
        self.options = options or Options()
        self.stack = stack
        """The local stack, if the session uses it; `demo` passes a stack of its own."""
        self._thread: LoopThread = shared()
        followed = None
        if client is not None:
            followed = FollowedClient(client, self.options.request_timeout)
            access_token = followed.token
        credentials = Credentials(project_key(key, self.url), access_token)
        _warn_of_secret(credentials, self.url)
        self._project = self._thread.call(
            Project, self.url, credentials, self.options, self._thread
        )
        self._subscribers = Subscribers()
        self._finalizer = weakref.finalize(self, _close_soon, self._project)
        self._finalizer.atexit = False
        try:
            self._writes = Writes(self._project, queue_path)
        except BaseException:
            self._finalizer()  # an exception's traceback would hold us, and the connection with us
            raise
        if followed is not None:
            self._thread.call(self._project.login.follow, followed)

    if not TYPE_CHECKING:  # type checkers know the names

        def __getattr__(self, name: str) -> Any:
            said = f"{type(self).__name__!r} has no {name!r}{of_session(name, public(type(self)))}"
            raise AttributeError(said, name=name, obj=self)

    def __repr__(self) -> str:
        status = "closed" if self._project.closed else self.status
        number = len(self._project.drivers)
        return f"<Session {self.url} {status}, {number} table{'s' * (number != 1)}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("'Session' lives in this process: connect again in the other one")

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> Any:
        if self._project.closed:
            return {"text/plain": repr(self)}
        return _show("session_bundle", self)

    # Unsent edits

    @property
    def queue(self) -> Queue:
        """The edits that wait to be sent, a `Queue`: ``len``, ``.df``, ``.retry``, ``.edit``, ``.discard``,
        ``.rpc``, ``.pause``, ``.resume``, ``.flush``, ``.export``. Displayed as a widget.
        """
        self._check()
        writes = self._writes
        return Queue(
            lambda: writes.outbox,
            wake=writes.decided,
            send=writes.send,
            pause=writes.pause,
            resume=partial(writes.pause, False),
            held=writes.held,
            display=partial(_show, "queue_bundle"),
            listen=writes.listen,
            call=writes.rpc,
            schema=self.schema,
            progress_after=self._project.options.progress_after,
        )

    @known_keywords
    def rpc(
        self,
        function: str,
        params: Mapping[str, Any] | None = None,
        *,
        schema: str | None = None,
    ) -> Any:
        """Call a function of the database now and return its result. `Queue.rpc` waits for the network
        instead; `query` keeps the result of a function up to date.

        Parameters
        ----------
        function : str
            Its name.
        params : dict, optional
            Its arguments by name: JSON values, also values of numpy and pandas, dates and times.
        schema : str, optional
            A schema other than the session's.

        Returns
        -------
        object
            The JSON value: a scalar, a dict, a list of rows (for ``pd.DataFrame(...)``), or None.

        Raises
        ------
        TypeError, ValueError
            If ``function`` is not a string, or ``params`` is not a dict or cannot be written as JSON.
        UnreachableError
            If the project does not answer within ``Options.request_timeout``.
        MissingQueryError
            If there is no function with this name and these parameters.
        NotebookRTError
            The server's error: `RefusedError`, `AuthError`, ...

        Examples
        --------
        >>> rt.rpc("add", {"a": 2, "b": 40})  # doctest: +SKIP
        42
        """
        self._check()
        check_text(schema, "schema")
        args = arguments(function, params)
        query = Query((), rpc=function, args=args)
        project = self._project
        try:
            page = self._asked(project.rest.fetch(schema or self.schema, "", query))
        except RefusedError as error:
            if error.code != "PGRST202":
                raise
            raise MissingQueryError(schema or self.schema, function, error.hint) from None
        return page.value if page.scalar else list(page.rows)

    # Status

    def status_bar(self, presence: Presence | None = None) -> StatusBar:
        """Return a widget with health, unsaved edits and the users who are present, in one line.

        Parameters
        ----------
        presence : Presence, optional
            The presence of a channel, ``channel.presence``. Default: no users are shown.

        Returns
        -------
        StatusBar
            The widget.

        Raises
        ------
        TypeError
            If ``presence`` has another type, such as the channel itself.
        """
        from notebook_rt.channel import Presence
        from notebook_rt.widgets import display

        if not isinstance(presence, Presence | None):
            raise TypeError(
                "status_bar takes the presence of a channel, rt.status_bar(channel.presence), "
                f"not {presence!r}"
            )

        return display.status_bar(self, presence)

    def notes(self) -> NotesWidget:
        """Return a widget with the latest events: merged, queued, failed, live again.

        Returns
        -------
        NotesWidget
            The widget.
        """
        from notebook_rt.widgets import display

        return display.notes(self)

    @property
    def status(self) -> State:
        """``disconnected``, ``connecting``, ``connected`` or ``reconnecting``."""
        return self._project.state

    @property
    def health(self) -> Health:
        """The health of the session: the worst status that applies, and its reason. Displayed as a widget,
        printed as sentences.

        ``health.status`` is, worst first, ``closed``, ``offline``, ``stale``, ``connecting``,
        ``polling``, ``behind`` (the last applied change is older than ``Options.behind_after``, or
        changes wait to be applied or may have been lost since the last audit), ``drifting`` (the
        last audit found and repaired a difference), ``refused`` (an edit was refused or is in conflict, and
        ``df`` still shows it), ``slow`` (over ``Options.slow_ms``) or ``healthy``. ``reason`` has the reason
        and, with any status, everything that only you can fix (``needs``): tables in error, too few channels,
        refused edits. ``latency_ms`` is the round trip of the last heartbeat in milliseconds, ``since_s`` the
        seconds since the status changed, ``next_audit_s`` the seconds until the next audit and ``audited_s``
        those since the last.
        """
        return replace(self._project.health(), display=partial(_show, "health_bundle", self))

    @property
    def metrics(self) -> SessionMetrics:
        """The session's counters: ``.as_dict()``, ``.df`` and ``metrics[name]``; see `SessionMetrics`."""
        return SessionMetrics(self._project.metrics())

    def retry(self) -> None:
        """Try to connect now, with the full ``Options.max_retries`` again, and retry each table that is in
        error.
        """
        self._check()
        self._thread.post(self._project.retry)

    def on_status(self, fn: Callable[[State, str], Any]) -> Callable[[], None]:
        """Call ``fn(status, reason)`` with each new `status` and its reason, on a separate thread.

        Parameters
        ----------
        fn : callable
            Called with the status and the reason, both str.

        Returns
        -------
        callable
            A function that unsubscribes ``fn``.

        Raises
        ------
        TypeError
            If ``fn`` is not a function.
        """
        return self._listen(fn, "Session.on_status", self._project.state_listeners.add)

    def on_health(self, fn: Callable[[Health], Any]) -> Callable[[], None]:
        """Call ``fn(health)`` when the health or the latency may have changed, on a separate
        thread.

        Parameters
        ----------
        fn : callable
            Called with the `Health`.

        Returns
        -------
        callable
            A function that unsubscribes ``fn``.

        Raises
        ------
        TypeError
            If ``fn`` is not a function.
        """
        return self._listen(fn, "Session.on_health", self._project.health_listeners.add)

    def on_note(self, fn: Callable[[str, str], Any]) -> Callable[[], None]:
        """Call ``fn(kind, text)`` with each note, on a separate thread.

        The kind is ``"merged"``, ``"conflict"`` (needs your decision), ``"queued"`` or ``"failed"`` (edits),
        ``"unavailable"`` and ``"live"`` (live updates stopped or returned), ``"limit"`` (a limit of the plan
        is near), or ``"info"``.

        Parameters
        ----------
        fn : callable
            Called with the kind and the text, both str.

        Returns
        -------
        callable
            A function that unsubscribes ``fn``.

        Raises
        ------
        TypeError
            If ``fn`` is not a function.
        """
        return self._listen(fn, "Session.on_note", self._project.note_listeners.add)

    def every(self, seconds: float, fn: Callable[[], Any]) -> Callable[[], None]:
        """Call ``fn()`` periodically while the session is open, on a separate thread.

        A call that takes longer delays the next one. An exception is logged once, and the calls continue.
        Running a cell again replaces the functions that it registered.

        Parameters
        ----------
        seconds : float
            Seconds between two calls, and before the first.
        fn : callable
            Called without arguments; may be a coroutine function.

        Returns
        -------
        callable
            A function that ends it.

        Raises
        ------
        TypeError
            If ``seconds`` is not a number, or ``fn`` is not a function.
        ValueError
            If ``seconds`` is not above 0.

        Examples
        --------
        >>> rt.every(60, lambda: prices.df.to_parquet("prices.parquet"))  # doctest: +SKIP
        """
        self._check()
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise TypeError(
                f"every takes seconds, then the function, as in every(60, save); not {seconds!r} first"
            )
        if not 0 < seconds < float("inf"):
            raise ValueError(f"every takes seconds above 0, not {seconds!r}")
        box = Mailbox(fn, what="Session.every", counted=self._project.counters)
        clock = Clock(box, seconds, lambda: self._project.closed)
        self._thread.call(clock.start)

        def remove() -> None:
            box.close()
            self._thread.post(clock.stop)

        return self._subscribers.add(fn, remove)

    def _listen(
        self, fn: Callable[..., Any], what: str, add: Callable[..., Callable[[], None]]
    ) -> Callable[[], None]:
        self._check()
        box = Mailbox(fn, what=what, counted=self._project.counters)
        stop = self._thread.call(add, box.put)

        def remove() -> None:
            box.close()
            self._thread.post(stop)

        return self._subscribers.add(fn, remove)

    # Login

    @property
    def user(self) -> Mapping[str, Any] | None:
        """The user who is signed in, with ``id``, ``email``, ``role`` and more; None if there is no user."""
        return self._thread.call(lambda: self._project.login.user)

    def sign_in(
        self,
        email: str | None = None,
        password: str | None = None,
        *,
        phone: str | None = None,
        code: str | None = None,
        link: str | None = None,
        anonymous: bool = False,
    ) -> Mapping[str, Any]:
        """Sign in. The token is refreshed automatically from then on, and every table follows the login.

        Rows shown to another login are gone at once: `LiveFrame.df` waits for the rows of the new login.

        Parameters
        ----------
        email : str, optional
            The user's email address.
        password : str, optional
            The password. A notebook saves the text of its cells: ``sign_in(email, getpass.getpass())``.
        phone : str, optional
            The user's phone number instead of the email address.
        code : str, optional
            The code sent by `send_code`, instead of a password.
        link : str, optional
            The link from the mail, or the address of the page it led to, instead of all of these.
        anonymous : bool
            Sign in as a new user without an address, if the project allows it.

        Returns
        -------
        mapping
            The user as described by the server, with a short repr.

        Raises
        ------
        LoginError
            If the server rejects the login; `UnreachableError` if there is no answer within
            ``Options.request_timeout``, `ServerError` if the server fails, `RateLimitedError` after
            too many attempts.
        TypeError, ValueError
            If no credentials are given, or several kinds, or the link has no token.

        Examples
        --------
        >>> rt.sign_in("ada@example.com", getpass.getpass())  # doctest: +SKIP
        >>> rt.send_code("ada@example.com")  # doctest: +SKIP
        >>> rt.sign_in("ada@example.com", code="123456")  # doctest: +SKIP
        """
        way = ways.sign_in(email, password, phone, code, link, anonymous)
        return self._log_in(way)

    def send_code(
        self, email: str | None = None, *, phone: str | None = None, create_user: bool = True
    ) -> None:
        """Let the project send a one-time code, by mail also a link, for ``sign_in(..., code=...)``.

        Parameters
        ----------
        email, phone : str, optional
            The address or number to send it to.
        create_user : bool
            Whether to sign up an unknown user.

        Raises
        ------
        LoginError
            If the server does not send it; `UnreachableError` if there is no answer.
        TypeError, ValueError
            If no address is given.
        """
        self._check()
        self._thread.wait(self._project.login.ask(ways.send_code(email, phone, create_user)))

    def sign_up(
        self,
        email: str | None = None,
        password: str | None = None,
        *,
        phone: str | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> Mapping[str, Any]:
        """Create a new user, who is signed in at once unless the project requires a confirmed address.

        Parameters
        ----------
        email : str, optional
            The user's email address.
        password : str
            The password.
        phone : str, optional
            The user's phone number instead of the email address.
        data : dict, optional
            Stored as ``user_metadata`` of the user.

        Returns
        -------
        mapping
            The user. If ``rt.user`` is None afterwards, a mail was sent: ``sign_in(link=...)``.

        Raises
        ------
        LoginError
            If the server refuses (a weak password, a known user); `UnreachableError` if there is no
            answer.
        TypeError, ValueError
            If the address or the password is missing.
        """
        try:
            return self._log_in(ways.sign_up(email, password, phone, data))
        except LoginError as error:
            refused = LoginError(error.url, error.reason, new=True)
        raise refused

    def _log_in(self, way: ways.Way) -> Mapping[str, Any]:
        self._check()
        try:
            return self._thread.wait(self._project.login.sign_in(way))
        except UnreachableError as error:
            failed = self._project.services.known(error)
        raise failed

    def sign_out(self) -> None:
        """Return to the key that the session was opened with, and remove the rows that only the user may see.

        The server also ends the user's session, if it can be reached, and the user's tables stored on this
        disk are removed. Without a login nothing happens. A client that was passed to `connect` is not signed
        out, but is no longer followed.
        """
        self._check()
        before = self._project.services.owner
        self._thread.wait(self._project.login.sign_out())
        if self._project.services.owner != before:
            cache.clear_user(*before)

    def set_auth(self, token: Token) -> None:
        """Use this access token from now on. None returns to the key.

        Parameters
        ----------
        token : str, callable or None
            A function (or coroutine function) is called now, and whenever a fresh token is needed.

        Raises
        ------
        TypeError, ValueError
            If the token, or the function's result, is not valid. An exception that the function raises
            now is raised here.
        """
        self._check()
        if isinstance(token, str):
            check_jwt(token)
        self._thread.wait(self._project.login.set_auth(token))

    # The end

    def close(self) -> None:
        """Leave every channel, close the socket and stop every timer. Frames keep their last data.

        This takes at most 5 s. Unsent edits stay in the queue's file.
        """
        self._finalizer.detach()
        thread, project = self._thread, self._project
        if thread.here:  # the garbage collector runs a ``__del__`` on any thread
            _close_soon(project)
        elif thread.pid == os.getpid() and not thread.loop.is_closed():
            with contextlib.suppress(TimeoutError, ClosedError):
                thread.wait(project.aclose(), CLOSE_SECONDS)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(self, *error: object) -> None:
        await asyncio.to_thread(self.close)

    def _check(self) -> None:
        if self._project.closed:
            raise ClosedError("this session")


def _show(how: str, what: object) -> Any:
    """Return the representation for a front end; a script never loads a widget."""
    from notebook_rt.widgets import display

    return getattr(display, how)(what)


def _close_soon(project: Project) -> None:
    with contextlib.suppress(ClosedError, RuntimeError):
        project.thread.submit(project.aclose())
