"""Who the project is used as: signs in, and gets a fresh access token before the present one ends.

In: credentials, or a token, or a function that gives one. Out: the token, told to the project, which
tells its socket, its tables and its queue. Everything here runs on the loop thread.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from notebook_rt.errors import LoginError, UnreachableError
from notebook_rt.net.credentials import Credentials
from notebook_rt.net.loop import LoopThread
from notebook_rt.options import Options
from notebook_rt.sync.health import Metrics

Token = str | Callable[[], str | Awaitable[str]] | None
"""An access token, or a function that gives a fresh one (called again when it ends)."""


class Login:
    """One project's login.

    Parameters
    ----------
    taken : async callable
        Told the token of another login; None: there is only the key.
    refreshed : async callable
        Told a fresh token of the same login.
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
    ) -> None:
        self._url = url
        self._credentials = credentials
        self._options = options
        self._thread = thread
        self._taken = taken
        self._refreshed = refreshed
        self._counters = counters
        self._auth: Any = None
        self._token_source: Callable[[], str | Awaitable[str]] | None = None
        self._refresh_timer: asyncio.TimerHandle | None = None
        self._refreshing: asyncio.Task[bool] | None = None

    async def sign_in(self, credentials: Mapping[str, Any]) -> Mapping[str, Any]:
        from supabase_auth import AsyncGoTrueClient
        from supabase_auth.errors import AuthError, AuthRetryableError

        if self._auth is None:
            self._auth = AsyncGoTrueClient(
                url=f"{self._url}/auth/v1",
                headers=self._credentials.headers(),
                auto_refresh_token=False,
                persist_session=False,
            )
        try:
            answer = await self._auth.sign_in_with_password(dict(credentials))
        except AuthRetryableError as error:
            raise UnreachableError(self._url, error.message) from error
        except AuthError as error:
            raise LoginError(self._url, error.message) from error
        if answer.session is None:
            raise LoginError(self._url, "the server gave no session")
        self._token_source = None
        await self._take(answer.session.access_token)
        user: Mapping[str, Any] = answer.session.user.model_dump()
        return user

    async def set_auth(self, token: Token) -> None:
        await self._sign_out()
        self._token_source = token if callable(token) else None
        await self._take(await _ask(token) if callable(token) else token)

    async def _take(self, token: str | None) -> None:
        await self._taken(token)
        self._plan_refresh()

    async def refresh(self, refused: str | None = None) -> bool:
        """Get a new access token in place of the one that was ``refused``; False: there is none.

        Whoever asks while one is being got waits for that one: a refresh token can be used once, and
        a storm of refused requests is one question.
        """
        if refused is not None and refused != self._credentials.access_token:
            return True  # it was got meanwhile
        if self._refreshing is None:
            self._refreshing = self._thread.spawn(self._refresh(), "refresh the token")
            self._refreshing.add_done_callback(self._refresh_done)
        return await asyncio.shield(self._refreshing)

    def _refresh_done(self, task: asyncio.Task[bool]) -> None:
        self._refreshing = None

    async def _refresh(self) -> bool:
        try:
            if self._auth is not None:
                answer = await self._auth.refresh_session()
                token = None if answer.session is None else answer.session.access_token
            elif callable(self._token_source):
                token = await _ask(self._token_source)
            else:
                return False
        except Exception as error:  # supabase_auth and the user's function raise what they like
            self._counters.last_error = f"the access token could not be refreshed: {error}"
            return False
        if token is None or token == self._credentials.access_token:
            return False
        await self._refreshed(token)
        self._plan_refresh()
        return True

    def _plan_refresh(self) -> None:
        if self._refresh_timer is not None:
            self._refresh_timer.cancel()
        expires_at = self._credentials.expires_at
        if expires_at is None or (self._auth is None and self._token_source is None):
            return
        delay = max(1.0, expires_at - time.time() - self._options.token_margin)
        loop = asyncio.get_running_loop()
        self._refresh_timer = loop.call_later(delay, self._refresh_now)

    def _refresh_now(self) -> None:
        self._thread.spawn(self.refresh(), "refresh the token")

    async def stop(self) -> None:
        """Ask for no token any more."""
        if self._refresh_timer is not None:
            self._refresh_timer.cancel()
        await self._sign_out()

    async def _sign_out(self) -> None:
        """Forget who signed in, and close the connections by which they did."""
        auth, self._auth = self._auth, None
        if auth is not None:
            await auth.close()


async def _ask(source: Callable[[], str | Awaitable[str]]) -> str:
    """Call the user's function, on a thread of its own: it may take long, and must delay no heartbeat."""

    def ask() -> str:
        try:
            token = source()
        except StopIteration as error:  # no future can carry it
            raise RuntimeError("there is no further token") from error
        return asyncio.run(_awaited(token)) if inspect.isawaitable(token) else token

    return await asyncio.to_thread(ask)


async def _awaited(token: Awaitable[str]) -> str:
    return await token
