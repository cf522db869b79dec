"""Adopt and follow the login of a user's client of the ``supabase`` package.

In: the client, sync or async, and the event loop of its owner. Out: its current access token, a fresh one
when ours expires, and a call after each sign-in or sign-out there. Only the client's public attributes are
used. The client refreshes its own token; a session never uses its refresh token, which can be used only once.
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
        Maximum seconds to wait for a fresh token of an async client.
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
        """The user's access token that the client sends now; None if it sends only its key.

        The client keeps it in the headers of its options for any kind of sign-in.
        """
        header = self._client.options.headers.get("Authorization", "")
        token = header.removeprefix("Bearer ").strip()
        return None if not token or token == self._client.supabase_key else token

    def fresh(self) -> str:
        """Return a valid token; from any thread except that of the client's loop.

        Raises
        ------
        UnreachableError
            If the client does not return one.
        """
        try:
            session: Any = self._client.auth.get_session()
            if asyncio.iscoroutine(session):
                session = self._awaited(session)
        except NotebookRTError:
            raise
        except Exception as error:  # the client and its HTTP library may raise anything
            # Not as the cause: a traceback would print the server's message unescaped.
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
            if not future.cancel():  # it is the client's own token
                raise
            raise UnreachableError(_CLIENT, f"no answer in {self._timeout:g} s") from None

    def listen(self, changed: Callable[[], object]) -> None:
        """Call ``changed``, a weakly referenced bound method, after each sign-in, refresh and sign-out, on
        the thread of that event. It must be quick.

        The listener stays registered after its session has ended: the client's list of listeners must
        not be changed while another thread iterates over it.
        """
        reference = weakref.WeakMethod(changed)

        def told(event: object, session: object) -> None:
            if (call := reference()) is not None:
                call()

        self._client.auth.on_auth_state_change(told)
