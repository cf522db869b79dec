"""All live objects of one project and login: REST, the connection, the tables, the token.

A ``Session`` is the user's handle on a ``Project``. The project runs on the loop thread and is kept alive
by its own timers; the handle is not. When the last handle (session or frame) is gone, because a
cell was run again, the project closes. All methods are called on the loop unless stated otherwise.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import logging
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from msgspec.structs import replace

from notebook_rt.edits.merge import Strategies
from notebook_rt.errors import AuthError, ClosedError, NotebookRTError, UnreachableError
from notebook_rt.model.signal import Signal
from notebook_rt.model.spec import QuerySpec, TableSpec
from notebook_rt.model.types import Backend
from notebook_rt.net.credentials import Credentials
from notebook_rt.net.login import Login
from notebook_rt.net.loop import LoopThread, WakingLock
from notebook_rt.net.rest import RestClient
from notebook_rt.net.supervisor import Connection
from notebook_rt.options import Options
from notebook_rt.runtime.driver import Driver
from notebook_rt.runtime.faults import Faults
from notebook_rt.runtime.feed import Verdict
from notebook_rt.runtime.heads import Heads
from notebook_rt.runtime.keeping import Disk
from notebook_rt.runtime.query import QueryDriver
from notebook_rt.runtime.room import Room
from notebook_rt.runtime.services import Services
from notebook_rt.runtime.table import ANOTHER_LOGIN, TableDriver
from notebook_rt.runtime.topics import Topics
from notebook_rt.sync.connection.health import (
    CALM,
    Audits,
    Facts,
    Finding,
    Health,
    Interruption,
    Since,
    audits_of,
    health,
    needs,
)
from notebook_rt.sync.connection.joins import Priority
from notebook_rt.sync.connection.metrics import Metrics
from notebook_rt.sync.connection.poll_turns import Turns
from notebook_rt.sync.connection.supervisor import State
from notebook_rt.sync.events import Page, Query, Status
from notebook_rt.sync.rate import ChangeRate
from notebook_rt.sync.table.broadcast import HEAD_PAUSE
from notebook_rt.sync.table.heads import HEADS
from notebook_rt.sync.usage import Hour, Near, Usage

logger = logging.getLogger("notebook_rt")

GRACE_MARGIN = 0.01
"""Seconds after the grace period of an interruption at which it is checked: a timer may be early."""


class Project:
    """See the module docstring."""

    def __init__(
        self, url: str, credentials: Credentials, options: Options, thread: LoopThread
    ) -> None:
        self.url = url
        self.credentials = credentials
        self.options = options
        self.thread = thread
        self.counters = Metrics()
        self.closed = False
        self._closing: asyncio.Task[None] | None = None
        self.reachable = True
        self._connected_at = dt.datetime.now(dt.UTC)
        """Time of the last answer from the server before the connection was lost; initially now."""
        self._was_there = False
        """Whether the server has ever answered."""
        self.presence_key = uuid.uuid4().hex
        """The key under which other clients see this session, the same after every reconnect."""
        self.tables: dict[object, TableDriver] = {}
        self.queries: dict[object, QueryDriver] = {}
        self.rooms: dict[object, Room] = {}
        self.table_listeners: Signal[TableDriver] = Signal()
        """Called with each new table before it starts."""
        self.login_listeners: Signal[()] = Signal()
        """Called when there is another login, or a fresh token."""
        self.closers: list[Callable[[], Awaitable[None]]] = []
        """Awaited first when the project closes."""
        self.enders: list[Callable[[], Awaitable[None]]] = []
        """Awaited last when the project closes: the stack it was connected to may stop now."""
        self.temporary = False
        """Whether the stack it is connected to stops then, and the queue is removed."""
        self.state_listeners: Signal[State, str] = Signal()
        """Called with each new state and its reason; must be fast."""
        self.note_listeners: Signal[str, str] = Signal()
        """Called with each note: its kind and text."""
        self.health_listeners: Signal[Health] = Signal()
        """Called with the health when it or the latency may have changed."""
        self.refused: Callable[[], str] = lambda: ""
        """A sentence about edits that the server refused; from any thread."""
        self._health_scheduled = False
        self._since = Since()
        self._interruption = Interruption(CALM * options.backoff_base)
        self._users: dict[object, int] = {}
        self.login = Login(
            url,
            credentials,
            options,
            thread,
            self._take_token,
            self._refreshed,
            self.counters,
            lambda: self.rest.clock(),
        )
        self.disk = Disk(
            lambda: self.services.owner,
            options.keep_bytes,
            lambda text: self.note("info", text),
            lambda: bool(self.note_listeners),
        )
        self.enders.append(self.disk.drain)
        self.usage = Usage(options.plan)
        self.rest = RestClient(url, credentials, options, self.login.refresh, self.usage)
        self.connection = Connection(
            url,
            credentials,
            options,
            thread,
            self.login.refresh,
            self.rest.clock,
            self._on_state,
            self._on_latency,
            self.schedule_health,
            self.usage,
            self.schedule_health,
            self._known,
        )
        lock = WakingLock(thread)
        self.services = Services(
            thread=thread,
            rest=self.rest,
            registry=self.connection.registry,
            options=options,
            metrics=self.counters,
            topics=Topics(lock),
            heads=Heads(self._ask_for_heads),
            phase=random.uniform(0.0, HEAD_PAUSE),
            turns=Turns(options.polls_at_once),
            rate=ChangeRate(self.usage.plan),
            on_overload=self._overloaded,
            lock=lock,
            unreachable=lambda: self.connection.last_error,
            on_contact=self._on_contact,
            known=self._known,
            in_grace=self.in_grace,
            on_note=self.note,
            faults=Faults(self._on_fault),
            on_facts=self.schedule_health,
        )
        thread.at_exit[id(self)] = self.aclose
        self.connection.start()

    @property
    def state(self) -> State:
        return "disconnected" if self.closed else self.connection.state

    async def _ask_for_heads(self, question: Query) -> Page:
        return await self.rest.fetch("public", HEADS, question, purpose="heads")

    # Tables and queries

    @property
    def drivers(self) -> list[Driver]:
        """The feeds of all tables and queries. From any thread."""
        return [*self.tables.values(), *self.queries.values()]

    @property
    def _owners(self) -> Sequence[dict[object, Any]]:
        """All objects with a channel, by the value under which they are shared."""
        return self.tables, self.queries, self.rooms

    def table(
        self,
        spec: TableSpec,
        dtype_backend: Backend,
        priority: Priority,
        strategies: Strategies | None = None,
        lazy: bool = False,
        keep: bool | None = None,
    ) -> tuple[object, TableDriver]:
        """Return the shared driver of this view of a table, and the argument for ``let_go``."""
        merged_as = (
            None if strategies is None else tuple(sorted(strategies.columns.items(), key=str))
        )
        shared_as = (spec, dtype_backend, strategies and strategies.default, merged_as)
        driver = self.tables.get(shared_as)
        if driver is not None:
            driver.place.share(priority)
            driver.restart()
            if keep:
                driver.keep(self.disk, asked=True)
        else:
            driver = TableDriver(
                spec,
                _topic(spec, shared_as),
                self.services,
                dtype_backend=dtype_backend,
                priority=priority,
                strategies=strategies,
                lazy=lazy,
            )
            if spec.numeric == "decimal":
                self.connection.keep_exact_numbers()
            self.tables[shared_as] = driver
            driver.disk = self.disk
            if keep or (keep is None and self.options.keep):
                driver.keep(self.disk, asked=bool(keep))
            self.table_listeners.notify(driver)
            driver.status_listeners.add(self._on_status)
            driver.start()
        self._users[shared_as] = self._users.get(shared_as, 0) + 1
        return shared_as, driver

    def query(self, spec: QuerySpec, dtype_backend: Backend) -> tuple[object, QueryDriver]:
        """Return the shared driver of this query, and the argument for ``let_go``."""
        shared_as = (spec, dtype_backend)
        driver = self.queries.get(shared_as)
        if driver is not None:
            driver.place.share("normal")
            driver.restart()
        else:
            topic = _topic(spec, shared_as)
            driver = QueryDriver(spec, topic, self.services, dtype_backend=dtype_backend)
            self.queries[shared_as] = driver
            driver.status_listeners.add(self._on_status)
            driver.start()
        self._users[shared_as] = self._users.get(shared_as, 0) + 1
        return shared_as, driver

    def let_go(self, shared_as: object, priority: Priority) -> None:
        """Release a handle with this priority; the last one ends the subscription."""
        if shared_as not in self._users:
            return
        owner = next(of[shared_as] for of in self._owners if shared_as in of)
        self._users[shared_as] -= 1
        if self._users[shared_as]:
            owner.place.unshare(priority)
            return
        del self._users[shared_as]
        for of in self._owners:
            of.pop(shared_as, None)
        owner.close()

    def retry(self) -> None:
        """Retry everything that has failed now, at the user's request."""
        self.connection.retry("user")
        for driver in self.drivers:
            driver.retry()

    # Channels

    def room(
        self,
        topic: str,
        *,
        private: bool,
        priority: Priority,
        receive_own: bool,
        replay: Mapping[str, int] | None,
        presence_key: str | None,
    ) -> tuple[object, Room]:
        """Return the shared room of a topic, and the argument for ``let_go``.

        Raises
        ------
        ValueError
            If the topic is open already with other settings.
        """
        shared_as = ("room", topic)
        room = self.rooms.get(shared_as)
        if room is None:
            room = Room(
                topic,
                self.services,
                private=private,
                priority=priority,
                presence_key=presence_key or self.presence_key,
                receive_own=receive_own,
                replay=replay,
            )
            self.rooms[shared_as] = room
            room.start()
        elif (private, receive_own, replay, presence_key or room.presence_key) != (
            room.private,
            room.receive_own,
            room.replay,
            room.presence_key,
        ):
            raise ValueError(f'channel "{topic}" is open with other settings; close it first')
        else:
            room.place.share(priority)
            room.ask_again()
        self._users[shared_as] = self._users.get(shared_as, 0) + 1
        return shared_as, room

    # Health

    def health(self, facts: Facts | None = None) -> Health:
        """Return the health, from any thread; ``facts`` if they were just collected."""
        facts, now = facts or self._facts(), time.monotonic()
        status, reason, cause = self._verdict(facts)
        made = audits_of(facts.tables)
        hour = self.usage.hour(now)
        return Health(
            status,
            reason,
            None if facts.latency is None else 1000 * facts.latency,
            self.metrics(made),
            next_audit_s=made.next_in,
            audited_s=made.last_ago,
            tables=made.tables,
            all_right=made.all_right,
            usage=self.usage.sentence(hour),
            near_limits=tuple(near.text for near in self._near(hour)),
            cause=cause,
            needs=needs(facts, poll_interval=self.options.poll_interval),
            since_s=self._since.update(status, now),
            trends=self.counters.trends(now),
            disk=self.disk.problem,
            sources={
                driver.spec.table: driver.source + (f" per {driver.scope}" if driver.scope else "")
                for driver in self.drivers
                if driver.source is not None
            },
        )

    def _verdict(self, facts: Facts) -> Finding:
        options = self.options
        return health(
            facts,
            slow_ms=options.slow_ms,
            stale_after=options.stale_after,
            poll_interval=options.poll_interval,
            behind_after=options.behind_after,
        )

    def _facts(self) -> Facts:
        states, now = self.connection.registry.channels(), time.monotonic()
        refused = {
            room.topic: room.reason or str(error)
            for room in list(self.rooms.values())
            if (error := room.error) is not None
        }
        return Facts(
            state=self.state,
            reason=self._reason,
            silent_for=now - self.connection.traffic.last_frame_at,
            late_answer=self.connection.silent,
            latency=self.counters.latency.latest if self.state == "connected" else None,
            reachable=self.reachable,
            unjoined=sum(
                state in ("out", "joining")
                for topic, state in states.items()
                if topic not in refused
            ),
            tables=[driver.facts(now) for driver in self.drivers],
            closed=self.closed,
            refused=self.refused(),
            refused_channels=list(refused.items()),
            unjoined_channels=[
                (room.topic, room.reason)
                for room in list(self.rooms.values())
                if room.topic not in refused and states.get(room.topic) in ("out", "joining")
            ],
            shortage=self.connection.registry.shortage,
            crowded_channels=[
                room.topic for room in list(self.rooms.values()) if room.place.crowded
            ],
            away_since="" if self.state == "connected" else f"{self._connected_at:%H:%M} UTC",
            in_grace=self.in_grace(),
            computed=self.services.faults.all(),
        )

    def in_grace(self) -> bool:
        """Whether live updates, if interrupted, may return at once; from any thread."""
        return self._interruption.in_grace(time.monotonic())

    def metrics(self, made: Audits | None = None) -> dict[str, Any]:
        """Return the facts, from any thread; ``made`` if the audits were just checked."""
        traffic, now = self.connection.traffic, time.monotonic()
        states = self.connection.registry.channels().values()
        made = made or audits_of(self._facts().tables)
        hour = self.usage.hour(now)
        return {
            "status": self.state,
            "retries": max(0, self.connection.machine.tries - 1),
            "messages": traffic.frames,
            "bytes": traffic.bytes_received + self.rest.http.bytes_received,
            "requests": self.rest.http.requests,
            "unknown": traffic.unknown,
            "messages_this_hour": hour.messages,
            "sent_this_hour": hour.sent,
            "requests_this_hour": hour.requests,
            "bytes_in_this_hour": hour.bytes_in,
            "bytes_out_this_hour": hour.bytes_out,
            "messages_a_month": hour.month,
            "peak_messages_per_s": hour.peak,
            "peak_presence_messages_per_s": hour.presence_peak,
            "audit_share": hour.share("audit"),
            "heads_share": hour.share("heads"),
            "poll_share": hour.share("poll"),
            "channels": sum(state == "joined" for state in states),
            "tables": len(self.drivers),
            "broadcast_tables": sum(driver.source == "broadcast" for driver in self.drivers),
            "scoped_tables": sum(bool(driver.scope) for driver in self.drivers),
            "rooms": len(self.rooms),
            "kept_refused": self.disk.refused,
            "next_audit_s": made.next_in,
            "audited_s": made.last_ago,
            **self.counters.as_dict(now),
        }

    async def verify(self, within: float) -> list[tuple[str, Verdict | Exception]]:
        """Compare every table with the server, for at most this many seconds; return the results by name, or
        why there is none.
        """
        asked = [
            (driver.spec.table, asyncio.wrap_future(driver.verify())) for driver in self.drivers
        ]
        if asked:
            await asyncio.wait([future for _, future in asked], timeout=within)
        late = TimeoutError(f"no result within {within:g} s")
        found: list[tuple[str, Verdict | Exception]] = []
        for name, future in asked:
            if not future.done():
                future.cancel()
                found.append((name, late))
            else:
                error = future.exception()
                found.append((name, error if isinstance(error, Exception) else future.result()))
        return found

    def _near(self, hour: Hour) -> list[Near]:
        states = list(self.connection.registry.channels().values())
        channels = sum(state in ("joined", "joining") for state in states)
        now, rooms = time.monotonic(), list(self.rooms.values())
        calls = max((room.presence_calls(now) for room in rooms), default=0)
        return self.usage.near(hour, channels, calls)

    def note(self, kind: str, text: str) -> None:
        self.note_listeners.notify(kind, text)

    def _on_state(self, state: State, reason: str) -> None:
        if self.counters.connected_since is not None or state == "connected":
            self._note_contact()
        self.counters.state(state, reason, time.monotonic())
        self.state_listeners.notify(state, reason)
        self.schedule_health()

    def _on_latency(self, seconds: float) -> None:
        self.counters.answered(seconds, time.monotonic())
        self.schedule_health()

    def _on_status(self, status: Status, reason: str) -> None:
        self.schedule_health()

    def _on_fault(self) -> None:
        with suppress(ClosedError):  # the loop has ended
            self.thread.post(self.schedule_health)

    def _overloaded(self) -> None:
        """Notify all tables that the server may drop changes."""
        for driver in self.drivers:
            driver.overloaded()

    def schedule_health(self) -> None:
        """Report the health at the end of this turn of the loop."""
        if not self._health_scheduled:
            self._health_scheduled = True
            asyncio.get_running_loop().call_soon(self._report_health)

    def _report_health(self) -> None:
        self._health_scheduled = False
        now, facts = (
            time.monotonic(),
            self._facts(),
        )  # only once: a session may have a hundred tables
        if self.health_listeners:
            self.health_listeners.notify(self.health(facts))
        else:
            self._since.update(self._verdict(facts).status, now)
        for near in self.usage.due(self._near(self.usage.hour(now)), now):
            self.note("limit", near.text)
        # A table in error reports that itself: these lines are about losing and regaining live updates.
        tables = [table for table in facts.tables if table.status != "error"]
        facts = replace(facts, tables=tables, computed=())
        interruption, since = self._interruption, self._interruption.since
        found = self._verdict(facts)
        told = interruption.update(facts.away, found.status, found.reason, now)
        if told is not None:
            self.note(*told)
        if since is None and interruption.since is not None:
            soon = interruption.grace + GRACE_MARGIN
            asyncio.get_running_loop().call_later(soon, self.schedule_health)

    def _note_contact(self) -> None:
        self._connected_at, self._was_there = dt.datetime.now(dt.UTC), True

    def _known(self, error: NotebookRTError) -> NotebookRTError:
        """Return ``error``; for a server that answered before, with the time since it does not."""
        if not isinstance(error, UnreachableError):
            return error
        at: dt.datetime | None = self._connected_at if self._was_there else None
        if at is None:  # the rows of an earlier kernel came from it
            kept = [
                table.synced_at for table in self.tables.values() if table.synced_at is not None
            ]
            at = max(kept, default=None)
        if at is None:
            return error
        day = "" if at.date() == dt.datetime.now(dt.UTC).date() else f"{at:%Y-%m-%d} "
        return error.after(f"{day}{at:%H:%M:%S} UTC")

    @property
    def _reason(self) -> str:
        """Return why there is no connection, by what is known of the server now."""
        reason, error = self.connection.machine.reason, self.connection.last_error
        if isinstance(error, UnreachableError) and error.what == reason:
            known = self._known(error)
            return known.what if isinstance(known, UnreachableError) else reason
        return reason

    def _on_contact(self, reached: bool) -> None:
        """Handle a request's success: after a failure it shows that the network is back."""
        if reached:
            self._note_contact()
        if reached and not self.reachable:
            self.connection.retry("network")
        if reached != self.reachable:
            self.reachable = reached
            self.schedule_health()

    # Login

    async def _take_token(self, token: str | None) -> None:
        """Handle another login: failed tables start again, the others are compared with its rows."""
        before, identity = self.credentials.access_token, self.credentials.identity
        tables = list(self.tables.values())
        written = [
            *(one.keeping for one in tables),
            *(one.recording.archiving for one in tables if one.recording is not None),
        ]
        kept = [one for one in written if one is not None]
        moves = Credentials(self.credentials.key, token).identity != identity
        for keeping in kept if moves else ():
            await keeping.leave()
        if moves:
            await self.disk.leave()
        changed = self._use(token)
        for keeping in kept if moves else ():
            keeping.move()
        for driver in self.drivers:
            if not changed and driver.error is None:
                if token != before:
                    driver.subscription.gap(ANOTHER_LOGIN, missed=False)
                continue
            if not changed:
                driver.restart()
            if isinstance(driver, TableDriver) and driver.keeping is not None:
                driver.keeping.arm()
        await self.connection.set_token(token)
        for room in list(self.rooms.values()):
            room.ask_again()

    async def _refreshed(self, token: str) -> None:
        if Credentials(self.credentials.key, token).identity != self.credentials.identity:
            await self._take_token(
                token
            )  # according to the token, the user is now in another tenant
            return
        self._use(token)
        await self.connection.registry.push_token()
        for room in list(self.rooms.values()):
            if isinstance(room.error, AuthError):
                room.ask_again()

    def _use(self, token: str | None) -> bool:
        """Use this token from now on; return whether the user changed. In that case the previous user's rows
        are no longer shown, and all is read again.

        This is one step: a user never sees or edits the rows of another one.
        """
        before = self.credentials.identity
        self.credentials.access_token = token
        changed = self.credentials.identity != before
        if changed:
            for driver in self.drivers:
                driver.login_changed()
        self.login_listeners.notify()
        return changed

    # The end

    async def aclose(self) -> None:
        """Leave every channel, close the socket, stop every timer."""
        if self._closing is None:
            self.closed = True
            self._closing = self.thread.spawn(self._close(), "close a session")
        await asyncio.wait([self._closing])  # after Ctrl-C it continues in the background

    async def _close(self) -> None:
        steps = (
            *self.closers,
            self._close_owners,
            self.login.stop,
            self.connection.stop,
            self.rest.aclose,
            *self.enders,
        )
        for step in steps:
            try:
                await step()
            except Exception:
                # For example a full disk under the queue: the socket is closed anyway.
                logger.exception("closing the session of %s", self.url)
        self.thread.at_exit.pop(id(self), None)

    async def _close_owners(self) -> None:
        for driver in self.drivers:
            driver.close()
        for room in list(self.rooms.values()):
            room.close()
        for of in self._owners:
            of.clear()
        self._users.clear()


def _topic(spec: TableSpec, shared_as: object) -> str:
    """Return a channel name for an object that is not shared; usually the same on every run."""
    digest = hashlib.sha256(repr(shared_as).encode()).hexdigest()[:12]
    return f"notebook_rt:{spec.schema}.{spec.table}:{digest}"
