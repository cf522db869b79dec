"""``Channel`` and ``Presence``: broadcasts and the users who are present.

Thin handles over a ``Room`` on the loop thread. Everything received over a channel was written by
other people: payloads, names and keys are passed on as data and never become HTML or code here.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from notebook_rt.edits.editing import SendResult
from notebook_rt.errors import ClosedError, WaitTimeoutError
from notebook_rt.frame import LiveFrame
from notebook_rt.hints import of_channel, public
from notebook_rt.model.plain import duration, plain, seconds
from notebook_rt.quoting import printable
from notebook_rt.runtime.broadcasts import BroadcastFeed
from notebook_rt.runtime.callbacks import Mailbox
from notebook_rt.runtime.room import Message, Room
from notebook_rt.sync.connection.presence import Person

if TYPE_CHECKING:
    import pandas as pd

    from notebook_rt.runtime.room import RoomStatus  # here for jedi's sake: see session.py

Queue = Callable[[str, str, Any, bool, float | None], SendResult]
"""Function that puts a broadcast into the queue: topic, event, payload, private, ttl."""


class Channel:
    """A topic of the project: send, listen, and see who is present. Returned by ``Session.channel``.

    The methods of a closed channel raise `ClosedError`.
    """

    def __init__(
        self, room: Room, release: Callable[[], None], session: object, queue: Queue
    ) -> None:
        self._room = room
        self._release = release
        self._session = session  # a session lives as long as one of its channels
        self._queue = queue
        self._thread = room.services.thread
        self._listening: list[tuple[str, Callable[..., Any], Callable[[], None]]] = []
        self._frames: list[LiveFrame] = []
        self._presence: Presence | None = None
        self._closed = False

    if not TYPE_CHECKING:  # type checkers still know the names

        def __getattr__(self, name: str) -> Any:
            said = f"{type(self).__name__!r} has no {name!r}{of_channel(name, public(type(self)))}"
            raise AttributeError(said, name=name, obj=self)

    def __repr__(self) -> str:
        return printable(f"<Channel {self.name} {self.status}>")

    def __reduce__(self) -> NoReturn:
        raise TypeError("'Channel' lives in this process: connect again in the other one")

    @property
    def name(self) -> str:
        """The topic."""
        return self._room.topic

    @property
    def status(self) -> RoomStatus:
        """``waiting`` (for the connection), ``joining``, ``joined``, ``refused`` or ``closed``."""
        return "closed" if self._closed else self._room.status

    @property
    def replicating(self) -> bool:
        """Whether broadcasts from the database (``realtime.send``) reach the channel, as reported by the
        server. Known for private channels only. False until the server has reported it; a channel can be
        joined a moment before it receives the database's messages.
        """
        return not self._closed and self._room.replicating

    def wait(self, timeout: float | None = None) -> Channel:
        """Wait until the channel is joined and, if its `presence` was used, the presence state is known.

        Parameters
        ----------
        timeout : float, optional
            Seconds.

        Returns
        -------
        Channel
            Itself.

        Raises
        ------
        WaitTimeoutError
            If it is not joined after ``timeout`` seconds.
        ChannelRefusedError
            If this login may not join it.
        AuthError
            If the server rejects the access token and there is no other one (`TokenExpiredError`: it has
            expired); after `Session.set_auth` the channel joins.
        UnreachableError
            If the URL does not answer; the session continues to retry.
        """
        timeout = seconds(timeout)
        self._check()
        try:
            self._thread.wait(self._room.wait_joined(), timeout)
        except concurrent.futures.TimeoutError as error:
            late = f'channel "{self.name}" is not joined after {timeout:g} s: {self.status}'
            if self._room.reason:
                late += f", the server says: {self._room.reason}"
            if self._room.private:
                late += "; a private channel needs a policy on realtime.messages for this login"
            raise WaitTimeoutError(late) from error
        return self

    async def ready(self) -> Channel:
        """Wait until the channel is joined, from any event loop. Raises as ``wait`` does.

        Returns
        -------
        Channel
            Itself.
        """
        self._check()
        await asyncio.wrap_future(self._thread.submit(self._room.wait_joined()))
        return self

    # Broadcasts

    def on(self, event: str, fn: Callable[[Any], Any]) -> Callable[[], None]:
        """Call ``fn(payload)`` with each broadcast of ``event``, in order, on a separate thread.

        For ``"*"`` it is called with a `Message` (``event``, ``payload``, ``at``, ``meta``) for every
        broadcast. An exception is logged once, and the calls continue.

        Parameters
        ----------
        event : str
            The event, or ``"*"`` for all.
        fn : callable
            Called with the payload; for ``"*"`` with the `Message`.

        Returns
        -------
        callable
            A function that unsubscribes ``fn``.

        Raises
        ------
        TypeError
            If ``event`` is not a string, or ``fn`` is not a function.
        """
        self._check()
        check_event(event)
        room = self._room
        services = room.services
        box = Mailbox(fn, services.options.buffer_size, f"{self.name}.on", services.metrics)
        box.holds = self

        def listener(message: Message) -> None:
            if event == "*":
                box.put(message)
            elif event == message.event:
                box.put(message.payload)

        self._thread.call(room.listeners.add, listener)

        def remove() -> None:
            box.close()
            self._thread.post(room.listeners.remove, listener)

        unsubscribe = room.subscribers.add(fn, remove)
        self._listening.append((event, fn, unsubscribe))
        return unsubscribe

    def off(self, event: str, fn: Callable[[Any], Any] | None = None) -> None:
        """Stop calling ``fn`` for ``event``.

        Parameters
        ----------
        event : str
            As passed to `on`.
        fn : callable, optional
            Default: all functions registered for ``event`` through this handle.
        """
        for entry in list(self._listening):
            if entry[0] == event and fn in (None, entry[1]):
                self._listening.remove(entry)
                entry[2]()

    def send(
        self, event: str, payload: Mapping[str, Any], *, ack: bool = False, ttl: float | None = None
    ) -> SendResult:
        """Send a broadcast over the socket, else over REST; without a network it is queued.

        A broadcast to a private channel that is still joining is sent once the join is answered, after at
        most ``Options.join_timeout``: only the join shows whether this login may send.

        Parameters
        ----------
        event : str
            Its name.
        payload : dict
            JSON values; values of numpy and pandas, dates, times, Decimals and sets are converted.
        ack : bool
            Wait for the server's acknowledgement, at most ``Options.join_timeout``.
        ttl : float, optional
            Seconds after which a queued broadcast is dropped.

        Returns
        -------
        SendResult
            ``queued=True`` if it waits for the network.

        Raises
        ------
        RefusedError, ChannelRefusedError, AuthError, WaitTimeoutError
            If the server refuses the broadcast or the channel, or does not answer with ``ack`` or to the
            join of a private channel. A payload above 256 KB, which not every plan accepts, always waits for
            the answer.
        TypeError, ValueError
            If the event is not a string, the payload is not a dict or cannot be written as JSON, or ``ttl``
            is not a number, negative or infinite.
        QueueError
            If it has to wait and cannot be stored in the queue's file.
        """
        self._check()
        check_event(event)
        ttl = None if ttl is None else duration(ttl, "ttl")
        if not isinstance(payload, Mapping):
            raise TypeError(f'the payload of "{event}" must be a dict, such as {{"value": ...}}')
        payload = plain(payload, f'channel "{self.name}", the payload of "{event}"')
        if self._thread.wait(self._room.send(event, payload, ack)):
            return SendResult(queued=False)
        return self._queue(self.name, event, payload, self._room.private, ttl)

    @property
    def messages(self) -> pd.DataFrame:
        """The latest ``Options.log_size`` broadcasts, oldest first, one row each.

        Columns: ``at`` (datetime64, UTC, by this machine's clock), ``event`` (str), ``payload`` (object),
        ``replayed`` (bool: it was sent before the channel was joined).
        """
        import pandas as pd

        messages: list[Message] = self._thread.call(list, self._room.messages)
        rows = [(_moment(m.at), m.event, m.payload, bool(m.meta.get("replayed"))) for m in messages]
        frame = pd.DataFrame(rows, columns=["at", "event", "payload", "replayed"])
        frame["at"] = pd.to_datetime(frame["at"], utc=True)
        return frame.astype({"event": "str", "replayed": bool})

    def frame(
        self, event: str, *, key: str | Sequence[str] | None = None, limit: int = 10_000
    ) -> LiveFrame:
        """Return the broadcasts of ``event`` as a live DataFrame; ``wait`` waits for the first message.

        Parameters
        ----------
        event : str
            Its name.
        key : str or sequence of str, optional
            Fields of the payload (text, numbers or bools): each key has one row with its latest message.
            None: a log with one row per message, indexed by its number ``n``, with the time of receipt
            ``at``; the payload's own ``n`` and ``at`` become ``n_`` and ``at_``.
        limit : int
            Maximum number of rows, 1 or more; the oldest are dropped.

        Returns
        -------
        LiveFrame
            The frame.

        Raises
        ------
        TypeError
            If ``event`` is not a string.
        ValueError
            If ``limit`` is less than 1.
        """
        self._check()
        check_event(event)
        if not limit >= 1:
            raise ValueError(f"limit must be a number of rows, 1 or more, not {limit!r}")
        names = (key,) if isinstance(key, str) else None if key is None else tuple(key)
        feed = BroadcastFeed(self._room, event, names, limit)
        self._thread.call(feed.start)
        found = LiveFrame(feed, lambda: self._thread.post(feed.close), self)
        self._frames.append(found)
        return found

    @property
    def presence(self) -> Presence:
        """The users who are present. A channel that was joined without presence joins again."""
        self._check()
        if self._presence is None:
            self._thread.call(self._room.enable_presence)
            self._presence = Presence(self._room, self)
        return self._presence

    def close(self) -> None:
        """Release the handle. The last handle of a channel leaves it."""
        if not self._closed:
            for _, _, unsubscribe in self._listening:
                unsubscribe()
            for frame in self._frames:
                frame.close()
            if self._presence is not None:
                self._presence._close()
            self._closed = True
            self._release()

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def __aenter__(self) -> Channel:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.close()

    def _check(self) -> None:
        if self.status == "closed":
            raise ClosedError(f'channel "{self.name}"')


class Presence:
    """The users in a channel and their state, returned by ``Channel.presence``."""

    def __init__(self, room: Room, channel: Channel) -> None:
        self._room = room
        self._channel = channel
        self._thread = room.services.thread
        self._removers: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return printable(f"<Presence {self._room.topic}: {len(self._room.people.present)} people>")

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> Any:
        from notebook_rt.widgets import display

        return display.presence_bundle(self)

    @property
    def key(self) -> str:
        """The key under which other clients see this session."""
        return self._room.presence_key

    def track(self, state: Mapping[str, Any] | None = None, /, **meta: Any) -> None:
        """Show this session to other clients, with these fields.

        Calls in quick succession are combined; the latest is sent within a second of the first. The server
        accepts five in 30 s, so in a longer series each wait is three times as long as the one before. Use a
        broadcast for values that change all the time.

        Parameters
        ----------
        state : dict, optional
            The fields as a dict, as in Supabase's own clients.
        **meta
            The fields by name, which override ``state``: JSON values, also values of numpy and pandas, dates
            and times. The widgets show ``name``, ``username`` and the like, and ``status="away"``.

        Raises
        ------
        TypeError, ValueError
            If a field cannot be written as JSON.
        ChannelRefusedError, AuthError
            If the server has refused the channel.
        """
        if not isinstance(state, Mapping | None):
            raise TypeError(
                f'track takes fields, track(name="Ada"), or a dict of them, not {state!r}'
            )
        meta = {**(state or {}), **meta}
        self._channel._check()
        self._thread.call(self._room.track, plain(meta, f'channel "{self._room.topic}", presence'))
        self._room.holds = self._channel  # a tracked presence stays alive without a variable

    def update(self, **meta: Any) -> None:
        """Change some of the fields of ``track`` and keep the others. Raises as ``track`` does.

        Parameters
        ----------
        **meta
            The fields to change.
        """
        self.track(**{**(self._room.tracked or {}), **meta})

    def untrack(self) -> None:
        """Hide this session from other clients."""
        self._channel._check()
        self._room.holds = None
        self._thread.call(self._room.track, None)

    @property
    def people(self) -> list[Person]:
        """All users who are present, in the order in which they joined."""
        return list(self._room.people.present.values())

    @property
    def df(self) -> pd.DataFrame:
        """One row per user, indexed by the key (str).

        Columns: ``joined`` and ``last_seen`` (datetime64, UTC, by this machine's clock: first seen here, and
        last update), ``connections`` (int64), ``you`` (bool), and the tracked fields of the user's latest
        connection; a field with one of these names gets an underscore (``joined_``).
        """
        import pandas as pd

        own = ["joined", "last_seen", "connections", "you"]
        people = self.people
        rows = [
            {
                **{
                    f"{k}_" if k in own else k: v
                    for k, v in (p.metas[-1] if p.metas else {}).items()
                },
                "joined": _moment(p.joined_at),
                "last_seen": _moment(p.last_seen),
                "connections": len(p.metas),
                "you": p.key == self.key,
            }
            for p in people
        ]
        fields = [name for name in dict.fromkeys(k for row in rows for k in row) if name not in own]
        index = pd.Index([p.key for p in people], name="key", dtype="str")
        frame = pd.DataFrame(rows, index=index, columns=[*own, *fields])
        for name in ("joined", "last_seen"):
            frame[name] = pd.to_datetime(frame[name], utc=True)
        return frame.astype({"connections": "int64", "you": bool})

    def on_join(self, fn: Callable[[Person], Any]) -> Callable[[], None]:
        """Call ``fn(person)`` for each user who joins, on a separate thread.

        Parameters
        ----------
        fn : callable
            Called with the `Person`.

        Returns
        -------
        callable
            A function that unsubscribes ``fn``.

        Raises
        ------
        TypeError
            If ``fn`` is not a function.
        """
        return self._on(fn, came=True)

    def on_leave(self, fn: Callable[[Person], Any]) -> Callable[[], None]:
        """Call ``fn(person)`` for each user who leaves, on a separate thread.

        Parameters
        ----------
        fn : callable
            Called with the `Person`.

        Returns
        -------
        callable
            A function that unsubscribes ``fn``.

        Raises
        ------
        TypeError
            If ``fn`` is not a function.
        """
        return self._on(fn, came=False)

    def on_change(self, fn: Callable[[], Any]) -> Callable[[], None]:
        """Call ``fn()`` when the presence changed, on a separate thread.

        Parameters
        ----------
        fn : callable
            Called without arguments.

        Returns
        -------
        callable
            A function that unsubscribes ``fn``.

        Raises
        ------
        TypeError
            If ``fn`` is not a function.
        """
        return self._listen(fn, lambda box, came, gone: box.put())

    def _on(self, fn: Callable[[Person], Any], came: bool) -> Callable[[], None]:
        def hand_on(box: Mailbox, arrived: list[Person], left: list[Person]) -> None:
            for person in arrived if came else left:
                box.put(person)

        return self._listen(fn, hand_on)

    def _listen(
        self,
        fn: Callable[..., Any],
        hand_on: Callable[[Mailbox, list[Person], list[Person]], None],
    ) -> Callable[[], None]:
        room = self._room
        services = room.services
        what = f"{room.topic}.presence"
        box = Mailbox(fn, services.options.buffer_size, what, services.metrics)
        box.holds = self._channel

        def listener(came: list[Person], gone: list[Person]) -> None:
            hand_on(box, came, gone)

        self._thread.call(room.presence_listeners.add, listener)

        def remove() -> None:
            box.close()
            self._thread.post(room.presence_listeners.remove, listener)

        return room.subscribers.add(fn, remove, self._removers)

    def _close(self) -> None:
        for remove in tuple(self._removers):
            remove()


def _moment(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


def check_event(event: object) -> None:
    """Raise unless this is the name of an event."""
    if not isinstance(event, str):
        raise TypeError(f"the name of an event must be a string, not {event!r}")


def check_topic(name: str) -> str:
    """Return ``name`` as a topic, or raise a ValueError that explains the problem."""
    if not isinstance(name, str) or not name or name.startswith("realtime:"):
        raise ValueError(f'a channel needs a name without "realtime:", not {name!r}')
    return name


__all__ = ["Channel", "Message", "Person", "Presence", "SendResult", "check_topic"]
