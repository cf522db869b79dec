"""``connect`` and ``Session``: one project, one login, everything live that is made of it.

A session shares: asking twice for the same table gives two handles on one subscription and one
store, counted, gone with the last. What it does runs on the process' loop thread; its methods are
synchronous and thread-safe.
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

    Returns at once; the connection is made in the background, and what is wrong with it is raised
    where data is waited for.

    Parameters
    ----------
    url : str or supabase client, optional
        The project's URL, as the dashboard or any of Supabase's libraries has it, or its reference.
        Or a client that ``supabase.create_client`` or ``acreate_client`` made: its URL, key, schema
        and login are taken over, and its sign-ins, refreshes and sign-outs followed until
        `Session.sign_in` or `Session.set_auth` is called here.

        ``"local"`` starts the embedded stack of this machine, or attaches to it if it runs.
        Default: ``$SUPABASE_URL``; where no variable names a project, a notebook or a prompt gets
        the embedded stack, and says so, and a script gets `NoProjectError`.
    key : str, optional
        The publishable (or anon) key. Default: ``$SUPABASE_KEY``; for the embedded stack its own
        anon key. ``.env`` files are not read. A secret key passes every policy: in a notebook it is
        warned about once.
    schema : str, optional
        The PostgreSQL schema that tables and functions are looked for in. Default: the client's, else
        ``"public"``.
    access_token : str, optional
        A user's token (a JWT); see also `Session.sign_in`.
    queue_path : path, optional
        The file of unsent writes. Default: one for each project and login, in the user's state
        directory. Sessions may share one: each login sees and sends only its own.
    options : Options, optional
        The numbers that the session runs by, such as ``nrt.Options(poll_interval=2.0)``.

    Returns
    -------
    Session
        The session; it connects in the background.

    Raises
    ------
    UnreachableError
        If ``url`` is no URL of a project.
    NoKeyError
        If there is no key, or what is given is not a valid key.
    NoProjectError
        If no project is named: in a script, and wherever a key is given, or another variable, such as
        ``NEXT_PUBLIC_SUPABASE_URL``, looks like a project's.
    QueueError
        If ``queue_path`` is a file that is no queue, or cannot be opened.
    StackError
        If the embedded stack is asked for and cannot be started; `notebook_rt.local.start` names
        the reasons.
    TypeError, ValueError
        If something is not of its kind: ``options`` that are no `Options`, a token that is not valid.

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
    """Once a process, and not for a stack of this machine, whose keys open nothing else."""
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
"""The longest that ``close`` waits; what is left goes on behind it."""

_cells: dict[str, list[tuple[object, str, weakref.ref[Session]]]] = {}
"""The sessions that each notebook cell connected: in which run of it, to which project."""


def connected(session: Session, project: str | None = None) -> Session:
    """A cell that is run again begins anew: what it had connected to the same project is closed.

    Callbacks, presence and what the kernel keeps of a cell's output would hold it for ever.
    ``project`` says which project it is, where its URL is another one each time.
    """
    project = project or session.url
    at_session_end(session._finalizer)  # a visitor of a marimo app who leaves closes what is theirs
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
    """A project, live. Made by `connect`; use it as a context manager or ``close()`` it.

    It also closes when nothing holds it or one of its frames any more, and when the cell that made
    it is run again and connects to the same project. Calls that need the server raise `ClosedError`
    then.
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
        warn_if_readable(self.url, stacklevel=3)  # who called connect()
        check_text(schema, "schema")
        self.schema = schema
        if not isinstance(options, Options | None):
            raise TypeError(f"options are nrt.Options(poll_interval=2.0, ...), not {options!r}")
        if access_token is not None:
            check_jwt(checked_token(access_token))
        self.options = options or Options()
        self.stack = stack
        """The local stack, where the session uses it; `demo` gives it one of its own."""
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

    if not TYPE_CHECKING:  # a type checker knows the names that there are

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

    # What waits to be sent

    @property
    def queue(self) -> Queue:
        """What waits to be sent, a `Queue`: ``len``, ``.df``, ``.retry``, ``.edit``, ``.discard``,
        ``.rpc``, ``.pause``, ``.resume``, ``.flush``, ``.export``; displays as its widget.
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
        """Call a function now, and give its result. `Queue.rpc` waits for the network instead;
        `query` keeps what a function returns up to date.

        Parameters
        ----------
        function : str
            Its name.
        params : dict, optional
            Its arguments by name: what JSON can say, numpy's and pandas' values and moments too.
        schema : str, optional
            Another schema than the session's.

        Returns
        -------
        object
            As JSON has it: a value, a dict, a list of rows (``pd.DataFrame(...)`` takes it), or None.

        Raises
        ------
        TypeError, ValueError
            If ``function`` is no text, or ``params`` is no dict or has no form in JSON.
        UnreachableError
            If no project answers within ``Options.request_timeout``.
        MissingQueryError
            If there is no such function, or none with these parameters.
        NotebookRTError
            By name, what the server says: `RefusedError`, `AuthError`, ...

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

    # How it goes

    def status_bar(self, presence: Presence | None = None) -> StatusBar:
        """Health, unsaved writes and people in one line: a widget.

        Parameters
        ----------
        presence : Presence, optional
            Of the channel whose people are shown: ``channel.presence``. Default: no people.

        Returns
        -------
        StatusBar
            The widget.

        Raises
        ------
        TypeError
            If ``presence`` is something else, such as the channel itself.
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
        """What happens, as a few lines: merged, queued, failed, live again. A widget.

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
        """The worst that is true, and why; displays as its widget, and prints as its sentences.

        ``health.status`` is, worst first, ``closed``, ``offline``, ``stale``, ``connecting``,
        ``polling``, ``behind`` (what was applied last is older than ``Options.behind_after``, or
        changes wait to be applied, or may have been lost since the last audit), ``drifting`` (the
        last audit found a difference, and repaired it), ``refused`` (an edit of yours, or one that
        is in conflict, which ``df`` still shows), ``slow`` (over ``Options.slow_ms``) or
        ``healthy``; ``reason`` says why, and besides all that only you can mend (``needs``), whatever the
        word is: tables in error, too few channels, what was refused; ``latency_ms`` the last
        heartbeat's way there and back in milliseconds, ``since_s`` the seconds for which the status
        has been this one, ``next_audit_s`` the seconds until the next audit and ``audited_s`` those since
        the last.
        """
        return replace(self._project.health(), display=partial(_show, "health_bundle", self))

    @property
    def metrics(self) -> SessionMetrics:
        """What is counted, as ``.as_dict()``, ``.df`` and ``metrics[name]``; see `SessionMetrics`."""
        return SessionMetrics(self._project.metrics())

    def retry(self) -> None:
        """Try to connect now, with all of ``Options.max_retries`` tries before it, and ask again for each
        table that is in error.
        """
        self._check()
        self._thread.post(self._project.retry)

    def on_status(self, fn: Callable[[State, str], Any]) -> Callable[[], None]:
        """Call ``fn(status, reason)`` with each new `status` and why, on a thread of its own.

        Parameters
        ----------
        fn : callable
            Given the status and the reason, both str.

        Returns
        -------
        callable
            Call it to unsubscribe.

        Raises
        ------
        TypeError
            If ``fn`` is no function.
        """
        return self._listen(fn, "Session.on_status", self._project.state_listeners.add)

    def on_health(self, fn: Callable[[Health], Any]) -> Callable[[], None]:
        """Call ``fn(health)`` when the verdict or the latency may be another one, on a thread of its
        own.

        Parameters
        ----------
        fn : callable
            Given the `Health`.

        Returns
        -------
        callable
            Call it to unsubscribe.

        Raises
        ------
        TypeError
            If ``fn`` is no function.
        """
        return self._listen(fn, "Session.on_health", self._project.health_listeners.add)

    def on_note(self, fn: Callable[[str, str], Any]) -> Callable[[], None]:
        """Call ``fn(kind, text)`` with each note, on a thread of its own.

        The kind is ``"merged"``, ``"conflict"`` (you are to decide), ``"queued"`` or ``"failed"`` (edits),
        ``"unavailable"`` (live updates are not to be had) and ``"live"`` (they are again), ``"limit"`` (one
        of the plan's is near), or ``"info"``.

        Parameters
        ----------
        fn : callable
            Given the kind and the text, both str.

        Returns
        -------
        callable
            Call it to unsubscribe.

        Raises
        ------
        TypeError
            If ``fn`` is no function.
        """
        return self._listen(fn, "Session.on_note", self._project.note_listeners.add)

    def every(self, seconds: float, fn: Callable[[], Any]) -> Callable[[], None]:
        """Call ``fn()`` every so many seconds while the session lives, on a thread of its own.

        A call that takes longer than that delays the next; one that raises is logged once, and called
        again. What a cell has registered is replaced when the cell is run again.

        Parameters
        ----------
        seconds : float
            Seconds from one call to the next, and to the first.
        fn : callable
            Called without arguments; a coroutine function works too.

        Returns
        -------
        callable
            Call it to end it.

        Raises
        ------
        TypeError
            If ``seconds`` is no number, or ``fn`` no function.
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

    # Who we are

    @property
    def user(self) -> Mapping[str, Any] | None:
        """Who is signed in, ``id``, ``email`` and ``role`` among what is known of them; None: nobody."""
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
        """Sign in; the token refreshes itself from then on, and every table follows.

        What another login was shown is gone at once: `LiveFrame.df` waits for what this one may see.

        Parameters
        ----------
        email : str, optional
            Who.
        password : str, optional
            Theirs. A notebook keeps what is typed into a cell: ``sign_in(email, getpass.getpass())``.
        phone : str, optional
            Who, in place of the email.
        code : str, optional
            Instead of a password, what `send_code` has had sent.
        link : str, optional
            Instead of all of these, the link from that mail, or the address of the page it led to.
        anonymous : bool
            As a new user without an address; the project must allow it.

        Returns
        -------
        mapping
            The user, as the server describes them; the repr is short.

        Raises
        ------
        LoginError
            If the server does not accept it; `UnreachableError` if none answers within
            ``Options.request_timeout``, `ServerError` if it fails, `RateLimitedError` if there were
            too many tries.
        TypeError, ValueError
            If no way to sign in is given, or several, or the link has no token.

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
        """Have the project send a one-time code, and by mail a link; then ``sign_in(..., code=...)``.

        Parameters
        ----------
        email, phone : str, optional
            Where to.
        create_user : bool
            Whether somebody unknown is signed up by it.

        Raises
        ------
        LoginError
            If the server does not send it; `UnreachableError` if none answers.
        TypeError, ValueError
            If there is no address.
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
        """Make a new user, who is signed in at once unless the project wants the address confirmed.

        Parameters
        ----------
        email : str, optional
            Who.
        password : str
            Theirs.
        phone : str, optional
            Who, in place of the email.
        data : dict, optional
            What is kept as their ``user_metadata``.

        Returns
        -------
        mapping
            The user. Where ``rt.user`` is None after it, a mail waits: ``sign_in(link=...)``.

        Raises
        ------
        LoginError
            If the server refuses (a weak password, a user whom it knows); `UnreachableError` if none
            answers.
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
        """Back to the key that the session was opened with; what only the user may see goes.

        The server ends the session too, if it can be reached, and what was kept of the user's tables on
        this disk is removed. Nothing happens without a login. A client that was given to `connect` is not
        signed out, only followed no more.
        """
        self._check()
        before = self._project.services.owner
        self._thread.wait(self._project.login.sign_out())
        if self._project.services.owner != before:
            cache.clear_user(*before)

    def set_auth(self, token: Token) -> None:
        """Use this access token from now on; None: back to the key.

        Parameters
        ----------
        token : str, callable or None
            A function (or coroutine function) is called for a fresh token now, and whenever one is
            needed.

        Raises
        ------
        TypeError, ValueError
            If what is given, or what the function gives, is not a valid token. What the function raises
            now is raised here.
        """
        self._check()
        if isinstance(token, str):
            check_jwt(token)
        self._thread.wait(self._project.login.set_auth(token))

    # The end

    def close(self) -> None:
        """Leave every channel, close the socket, stop every timer. Frames keep their last data.

        It takes 5 s at most; what waits in the queue stays in its file.
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
    """The form for a front end; a script never loads a widget."""
    from notebook_rt.widgets import display

    return getattr(display, how)(what)


def _close_soon(project: Project) -> None:
    with contextlib.suppress(ClosedError, RuntimeError):
        project.thread.submit(project.aclose())
