"""The login of a client of the ``supabase`` package that a user brought, taken over and followed.

In: the client, sync or async, and the event loop that its owner runs. Out: its present access token,
a fresh one when ours ends, and a call whenever somebody signs in or out there. Nothing but the
client's public attributes is used. The client refreshes its own token; a session never spends its
refresh token, which can be used once.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from notebook_rt.errors import NotebookRTError, UnreachableError

if TYPE_CHECKING:
    from notebook_rt.net.address import SupabaseClient

_CLIENT: Final = "the supabase client"


class FollowedClient:
    """One client's login.

    Parameters
    ----------
    client : supabase.Client or supabase.AsyncClient
    timeout : float
        Seconds that an async client is given for a fresh token.
    """

    def __init__(self, client: SupabaseClient, timeout: float) -> None:
        self._client = client
        self._timeout = timeout
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None

    @property
    def token(self) -> str | None:
        """The user's access token that the client sends now; None where it sends its key only.

        The client keeps it in the headers of its options, whoever signed in.
        """
        header = self._client.options.headers.get("Authorization", "")
        token = header.removeprefix("Bearer ").strip()
        return None if not token or token == self._client.supabase_key else token

    def fresh(self) -> str:
        """A token that has not ended, from any thread but the client's own loop.

        Raises
        ------
        UnreachableError
            If the client gives none.
        """
        try:
            session: Any = self._client.auth.get_session()
            if asyncio.iscoroutine(session):
                session = self._awaited(session)
        except NotebookRTError:
            raise
        except Exception as error:  # the client and its HTTP library raise what they like
            # Not as its cause: a traceback prints that with the server's words as they came.
            raise UnreachableError(_CLIENT, f"{type(error).__name__}: {error}") from None
        if session is None:
            raise UnreachableError(_CLIENT, "no user is signed in there any more")
        return str(session.access_token)

    def _awaited(self, session: Coroutine[Any, Any, Any]) -> Any:
        if self._loop is None or self._loop.is_closed():
            session.close()
            raise UnreachableError(_CLIENT, "the event loop it was made in ended")
        future = asyncio.run_coroutine_threadsafe(session, self._loop)
        try:
            return future.result(self._timeout)
        except TimeoutError:
            if not future.cancel():  # it is the client's own
                raise
            raise UnreachableError(_CLIENT, f"no answer in {self._timeout:g} s") from None

    def listen(self, changed: Callable[[], object]) -> None:
        """Call ``changed``, a bound method that is held weakly, after each sign-in, refresh and
        sign-out. It is called on the thread in which that happens, and must be quick.

        The listener stays in the client when its session is gone: the client's list of listeners is
        not safe to change while another thread goes through it.
        """
        reference = weakref.WeakMethod(changed)

        def told(event: object, session: object) -> None:
            if (call := reference()) is not None:
                call()

        self._client.auth.on_auth_state_change(told)
