"""Who the project is used as: signs in, and gets a fresh access token before the present one ends.

In: credentials, or a token, or a function that gives one. Out: the token, told to the project, which
tells its socket, its tables and its queue. Everything here runs on the loop thread.

Each login is a turn; what an earlier one still waits for (a slow function, a refresh under way) comes
too late to count.
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
"""An access token, or a function that gives a fresh one (called again when it ends)."""

AGAIN_SECONDS: Final = 5.0
"""The shortest wait before a fresh token is asked for again, when none could be had."""


class User(dict[str, Any]):
    """Who is signed in, as the server describes them.

    The repr names them alone: a cell that ends with ``rt.sign_in(...)`` writes it into the notebook.
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
        Told the token of another login; None: there is only the key.
    refreshed : async callable
        Told a fresh token of the same login.
    clock : callable
        Seconds since the epoch, as the server has them.
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
        """Use whatever login ``client`` has, until `sign_in` or `set_auth` says another one."""
        self._next_turn()
        self._followed = client
        client.listen(self._client_changed)
        self._client_changed()  # somebody may have signed in since its token was read

    def _client_changed(self) -> None:
        """Called on the thread of the client."""
        with contextlib.suppress(ClosedError):
            self._thread.post(self._take_over_soon)

    def _take_over_soon(self) -> None:
        self._thread.spawn(self._take_over(), "take over a client's login")

    async def _take_over(self) -> None:
        async with self._follow_lock:  # one after the other: the last one reads what is true now
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
        """Who is signed in: as the server described them, else what the token says."""
        token = self._credentials.access_token
        if token is None:
            return None
        if self._user is not None and self._user.get("id") == _subject(token):
            return self._user
        said = claims(token)
        names = ("email", "phone", "role", "is_anonymous", "app_metadata", "user_metadata")
        return User(id=said.get("sub"), **{name: said[name] for name in names if name in said})

    async def sign_in(self, way: Way) -> Mapping[str, Any]:
        """Sign in; gives the user. Without a session in the answer there is no other login yet."""
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
        """What changes no login."""
        auth = self._client()
        try:
            await self._asked(way, auth)
        finally:
            await auth.close()

    async def sign_out(self) -> None:
        """Back to the key, and the server forgets this session if it can be reached."""
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
            # Not as its cause: a traceback prints that with the server's words as they came.
            raise UnreachableError(self._url, str(error) or "no answer in time") from None
        except theirs.AuthError as error:
            raise _refused(self._url, error) from None
        except ValueError:  # pydantic's ValidationError is one
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
        """Another login: what the last one waits for is given up once there is the new token."""
        last, self._auth, self._token_source = self._auth, auth, source
        refreshing, self._refreshing = self._refreshing, None
        try:
            await self._taken(token)
            self._plan_refresh()
        finally:
            await _give_up(refreshing, last)

    async def refresh(self, refused: str | None = None) -> bool:
        """Get a new access token in place of the one that was ``refused``; False: it cannot be had.

        Whoever asks while one is being got waits for that one: a refresh token can be used once, and
        a storm of refused requests is one question.
        """
        if refused is not None and refused != self._credentials.access_token:
            return True  # it was got meanwhile
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
        except Exception as error:  # supabase_auth and the user's function raise what they like
            self._report_failed(repr(error))
        got = self._credentials.access_token != before
        self._plan_refresh(again=not got)
        return got

    async def _fresh(self) -> object:
        if self._auth is not None:
            answer = await self._auth.refresh_session()
            return None if answer.session is None else answer.session.access_token
        assert self._token_source is not None  # _refresh looked
        return await _ask(self._token_source)

    def _report_failed(self, reason: str) -> None:
        self._counters.last_error = f"the access token could not be refreshed: {reason}"

    def _plan_refresh(self, again: bool = False) -> None:
        """Before the token ends, and when that gave none (``again``) once more and once more.

        A token that has ended by this clock is left to be refused: it may be the clock that is wrong.
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
        """Ask for no token any more."""
        self._next_turn()
        auth, self._auth, self._token_source = self._auth, None, None
        self._plan_refresh()
        await _give_up(self._refreshing, auth)


def _subject(token: str | None) -> object:
    """Whose token it is; None without a token, or where it does not say."""
    return claims(token).get("sub")


async def _give_up(refreshing: asyncio.Task[bool] | None, auth: Any) -> None:
    if refreshing is not None:
        refreshing.cancel()
    if auth is not None:
        await auth.close()


def _refused(url: str, error: Any) -> NotebookRTError:
    """An answer that signs nobody in: the server's refusal, or that there is no such server now."""
    response = getattr(error.__cause__, "response", None)
    if response is None:
        return LoginError(url, error.message)
    what, status = f"{response.request.method} {response.request.url.path}", response.status_code
    answer = read_answer(status, response.headers, response.content, time.time())
    if answer.page and (not_supabase := no_supabase(what, answer)) is not None:
        return UnreachableError(url, not_supabase, status=status)
    in_json = error.name != "AuthUnknownError"
    # Where it is no JSON, the message is what the client says of it, not the server.
    said = error.message if in_json else answer.error_fields.get("message", "") * answer.page
    match by_status(status).kind:
        case "rate_limit":
            wait = retry_after(response.headers.get("retry-after"), time.time())
            return RateLimitedError(what, wait, said, again=False)
        case "server":
            return ServerError(what, status, said, again=False)
        case "auth" if error.code is None:  # what stands before the logins' server has said it
            return AuthError("key", url, said)
    if not in_json or (status == 404 and error.code is None):
        reason = f"it answers {status} to {what}: this is no Supabase project"
        return UnreachableError(url, reason)
    return LoginError(url, error.message)


async def _ask(source: Callable[[], str | Awaitable[str]]) -> object:
    """Call the user's function, on a thread of its own: it may take long, and must delay no heartbeat."""

    def ask() -> object:
        try:
            token = source()
            return asyncio.run(_awaited(token)) if inspect.isawaitable(token) else token
        except Exception as error:
            if isinstance(error, StopIteration):  # no future can carry it
                raise RuntimeError("there is no further token") from error
            raise
        except BaseException as error:  # sys.exit() would end the network thread's loop
            raise RuntimeError(f"the token function ended with {error!r}") from error

    return await asyncio.to_thread(ask)


async def _awaited(token: Awaitable[str]) -> str:
    return await token
