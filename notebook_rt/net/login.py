"""Manage the login of a project: sign in, and get a fresh access token before the current one expires.

In: credentials, a token, or a function that returns one. Out: the token, for the project's socket, tables and
queue. Everything here runs on the loop thread.

Each login is numbered as a turn; late results of an earlier turn (a slow function, a running refresh) are
ignored.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from notebook_rt.errors import (
    AuthError,
    ClosedError,
    LoginError,
    NotebookRTError,
    RateLimitedError,
    ServerError,
    UnreachableError,
)
from notebook_rt.model.classify import by_status, retry_after
from notebook_rt.net.answers import BETWEEN, no_supabase, read_answer
from notebook_rt.net.credentials import Credentials, checked_token, claims
from notebook_rt.net.followed import FollowedClient
from notebook_rt.net.loop import LoopThread
from notebook_rt.net.ways import Way
from notebook_rt.options import Options
from notebook_rt.quoting import printable
from notebook_rt.sync.connection.metrics import Metrics

Token = str | Callable[[], str | Awaitable[str]] | None
"""An access token, or a function that returns a fresh one (called again when it expires)."""

AGAIN_SECONDS: Final = 5.0
"""The shortest wait before the next attempt to get a fresh token, after a failure."""


class User(dict[str, Any]):
    """The signed-in user, as the server describes them.

    The repr contains only the name: a cell that ends with ``rt.sign_in(...)`` writes it into the notebook.
    """

    def __repr__(self) -> str:
        anonymous = "anonymous" if self.get("is_anonymous") else ""
        who = self.get("email") or self.get("phone") or anonymous or self.get("role")
        return printable(f"<User {who}, id {self.get('id')}; dict(rt.user) has everything>")


class Login:
    """One project's login.

    Parameters
    ----------
    taken : async callable
        Called with the token of another login; None: only the key is used.
    refreshed : async callable
        Called with a fresh token of the same login.
    clock : callable
        Returns the server's time in seconds since the epoch.
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        options: Options,
        thread: LoopThread,
        taken: Callable[[str | None], Awaitable[None]],
        refreshed: Callable[[str], Awaitable[None]],
        counters: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._url = url
        self._credentials = credentials
        self._options = options
        self._thread = thread
        self._taken = taken
        self._refreshed = refreshed
        self._counters = counters
        self._clock = clock
        self._turn = 0
        self._user: Mapping[str, Any] | None = None
        self._auth: Any = None
        self._token_source: Callable[[], str | Awaitable[str]] | None = None
        self._refresh_timer: asyncio.TimerHandle | None = None
        self._refreshing: asyncio.Task[bool] | None = None
        self._followed: FollowedClient | None = None
        self._follow_lock = asyncio.Lock()

    def follow(self, client: FollowedClient) -> None:
        """Use the login of ``client``, until `sign_in` or `set_auth` sets another one."""
        self._next_turn()
        self._followed = client
        client.listen(self._client_changed)
        self._client_changed()  # its login may have changed since its token was read

    def _client_changed(self) -> None:
        """Handle a change of the client's login, on the client's thread."""
        with contextlib.suppress(ClosedError):
            self._thread.post(self._take_over_soon)

    def _take_over_soon(self) -> None:
        self._thread.spawn(self._take_over(), "take over a client's login")

    async def _take_over(self) -> None:
        async with self._follow_lock:  # one after the other: the last one reads the current state
            if (client := self._followed) is None:
                return
            token, before = client.token, self._credentials.access_token
            self._token_source = None if token is None else client.fresh
            if token != before:
                checked = None if token is None else checked_token(token)
                if checked is not None and _subject(checked) == _subject(before):
                    await self._refreshed(checked)
                else:
                    await self._taken(checked)
            self._plan_refresh()

    @property
    def user(self) -> Mapping[str, Any] | None:
        """The signed-in user, as described by the server, otherwise by the token."""
        token = self._credentials.access_token
        if token is None:
            return None
        if self._user is not None and self._user.get("id") == _subject(token):
            return self._user
        said = claims(token)
        names = ("email", "phone", "role", "is_anonymous", "app_metadata", "user_metadata")
        return User(id=said.get("sub"), **{name: said[name] for name in names if name in said})

    async def sign_in(self, way: Way) -> Mapping[str, Any]:
        """Sign in and return the user. Without a session in the answer, the login does not change yet."""
        turn = self._next_turn()
        auth = self._client()
        try:
            answer = await self._asked(way, auth)
            if answer.user is None:
                raise LoginError(self._url, "the server gave no session")
            user = User(answer.user.model_dump())
            if answer.session is not None and turn == self._turn:
                await self._switch(checked_token(answer.session.access_token), auth=auth)
                self._user = user
        finally:
            if auth is not self._auth:
                await auth.close()
        return user

    async def ask(self, way: Way) -> None:
        """Send a request that does not change the login."""
        auth = self._client()
        try:
            await self._asked(way, auth)
        finally:
            await auth.close()

    async def sign_out(self) -> None:
        """Return to the key; the server ends the session if it can be reached."""
        self._next_turn()
        auth, self._auth = self._auth, None
        await self._switch(None)
        if auth is not None:
            with contextlib.suppress(LoginError, UnreachableError, ServerError, RateLimitedError):
                await self._asked(lambda auth: auth.sign_out({"scope": "local"}), auth)
            await auth.close()

    def _client(self) -> Any:
        from supabase_auth import AsyncGoTrueClient

        from notebook_rt.net.client import new_client, timeouts

        seconds = self._options.connect_timeout
        return AsyncGoTrueClient(
            url=f"{self._url}/auth/v1",
            headers=self._credentials.headers(),
            auto_refresh_token=False,
            persist_session=False,
            http_client=new_client(
                self._url,
                timeouts(seconds, seconds),
                self._options.max_answer_bytes,
            ),
        )

    async def _asked(self, way: Way, auth: Any) -> Any:
        from supabase_auth import errors as theirs

        try:
            async with asyncio.timeout(self._options.request_timeout):
                try:
                    answer = await way(auth)
                except (AttributeError, KeyError, TypeError) as error:
                    raise ValueError("JSON that is not a session") from error
            session = getattr(answer, "session", None)
            if session is not None:
                checked_token(session.access_token)
            return answer
        except (theirs.AuthRetryableError, TimeoutError) as error:
            # Not as the cause: a traceback would print the server's message unescaped.
            raise UnreachableError(self._url, str(error) or "no answer in time") from None
        except theirs.AuthError as error:
            raise _refused(self._url, error) from None
        except ValueError:  # pydantic's ValidationError is a ValueError
            reason = f"what answers there is no Supabase; {BETWEEN}"
            raise UnreachableError(self._url, reason) from None

    async def set_auth(self, token: Token) -> None:
        turn = self._next_turn()
        source = token if callable(token) else None
        given = await _ask(source) if source is not None else token
        if source is not None or given is not None:
            given = checked_token(given)
        if turn == self._turn:
            await self._switch(given, source=source)

    def _next_turn(self) -> int:
        self._turn += 1
        self._followed = None
        return self._turn

    async def _switch(self, token: str | None, *, auth: Any = None, source: Any = None) -> None:
        """Start another login; requests of the previous one are given up once there is the new token."""
        last, self._auth, self._token_source = self._auth, auth, source
        refreshing, self._refreshing = self._refreshing, None
        try:
            await self._taken(token)
            self._plan_refresh()
        finally:
            await _give_up(refreshing, last)

    async def refresh(self, refused: str | None = None) -> bool:
        """Get a new access token instead of the ``refused`` one; return False if that fails.

        Concurrent callers wait for the same refresh: a refresh token can be used once, and many refused
        requests cause one refresh.
        """
        if refused is not None and refused != self._credentials.access_token:
            return True  # another caller got it meanwhile
        if self._refreshing is None:
            self._refreshing = self._thread.spawn(self._refresh(), "refresh the token")
            self._refreshing.add_done_callback(self._refresh_done)
        before, refreshing = self._credentials.access_token, self._refreshing
        await asyncio.wait([refreshing])
        if refreshing.cancelled():  # another user has signed in
            return self._credentials.access_token != before
        return refreshing.result()

    def _refresh_done(self, task: asyncio.Task[bool]) -> None:
        if task is self._refreshing:
            self._refreshing = None

    async def _refresh(self) -> bool:
        if self._auth is None and self._token_source is None:
            return False
        before, seconds = self._credentials.access_token, self._options.request_timeout
        try:
            async with asyncio.timeout(seconds):
                token = checked_token(await self._fresh())
            if token != before:
                await self._refreshed(token)
        except TimeoutError:
            self._report_failed(f"no answer in {seconds:g} s")
        except NotebookRTError as error:
            self._report_failed(str(error))
        except Exception as error:  # supabase_auth and the user's function may raise anything
            self._report_failed(repr(error))
        got = self._credentials.access_token != before
        self._plan_refresh(again=not got)
        return got

    async def _fresh(self) -> object:
        if self._auth is not None:
            answer = await self._auth.refresh_session()
            return None if answer.session is None else answer.session.access_token
        assert self._token_source is not None  # checked in _refresh
        return await _ask(self._token_source)

    def _report_failed(self, reason: str) -> None:
        self._counters.last_error = f"the access token could not be refreshed: {reason}"

    def _plan_refresh(self, again: bool = False) -> None:
        """Schedule a refresh before the token expires; after a failure (``again``), the next attempt.

        A token that has expired by this clock is used until it is refused: the clock may be wrong.
        """
        if self._refresh_timer is not None:
            self._refresh_timer.cancel()
            self._refresh_timer = None
        expires_at = self._credentials.expires_at
        if expires_at is None or (self._auth is None and self._token_source is None):
            return
        left = expires_at - self._clock()
        if left <= 0:
            return
        margin = min(self._options.token_margin, left / 2)
        delay = max(AGAIN_SECONDS, left / 2) if again else left - margin
        loop = asyncio.get_running_loop()
        self._refresh_timer = loop.call_later(max(1.0, delay), self._refresh_now)

    def _refresh_now(self) -> None:
        self._thread.spawn(self.refresh(), "refresh the token")

    async def stop(self) -> None:
        """Stop refreshing the token."""
        self._next_turn()
        auth, self._auth, self._token_source = self._auth, None, None
        self._plan_refresh()
        await _give_up(self._refreshing, auth)


def _subject(token: str | None) -> object:
    """Return the user of a token; None without a token, or if it does not contain one."""
    return claims(token).get("sub")


async def _give_up(refreshing: asyncio.Task[bool] | None, auth: Any) -> None:
    if refreshing is not None:
        refreshing.cancel()
    if auth is not None:
        await auth.close()


def _refused(url: str, error: Any) -> NotebookRTError:
    """Return the error for an answer without a session: a refusal, or a server that is not available."""
    response = getattr(error.__cause__, "response", None)
    if response is None:
        return LoginError(url, error.message)
    what, status = f"{response.request.method} {response.request.url.path}", response.status_code
    answer = read_answer(status, response.headers, response.content, time.time())
    if answer.page and (not_supabase := no_supabase(what, answer)) is not None:
        return UnreachableError(url, not_supabase, status=status)
    in_json = error.name != "AuthUnknownError"
    # If it is not JSON, the message is the client library's, not the server's.
    said = error.message if in_json else answer.error_fields.get("message", "") * answer.page
    match by_status(status).kind:
        case "rate_limit":
            wait = retry_after(response.headers.get("retry-after"), time.time())
            return RateLimitedError(what, wait, said, again=False)
        case "server":
            return ServerError(what, status, said, again=False)
        case "auth" if error.code is None:  # sent by a proxy in front of the login server
            return AuthError("key", url, said)
    if not in_json or (status == 404 and error.code is None):
        reason = f"it answers {status} to {what}: this is no Supabase project"
        return UnreachableError(url, reason)
    return LoginError(url, error.message)


async def _ask(source: Callable[[], str | Awaitable[str]]) -> object:
    """Call the user's function on a separate thread: it may take long, and must not delay heartbeats."""

    def ask() -> object:
        try:
            token = source()
            return asyncio.run(_awaited(token)) if inspect.isawaitable(token) else token
        except Exception as error:
            if isinstance(error, StopIteration):  # a future cannot carry it
                raise RuntimeError("there is no further token") from error
            raise
        except BaseException as error:  # sys.exit() would end the loop of the network thread
            raise RuntimeError(f"the token function ended with {error!r}") from error

    return await asyncio.to_thread(ask)


async def _awaited(token: Awaitable[str]) -> str:
    return await token
