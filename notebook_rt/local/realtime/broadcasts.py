"""Broadcasts from the database: rows of `realtime.messages` as messages of their topics.

In: the log's inserts into that table, read by a separate stream, so that neither policies nor polls delay a
message. Out: frames to the topic's members, in the order of commits. Messages that the real server loses are
lost here, too: commits before the stream runs for a project without clients, messages that are too large,
and messages above the rate.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from notebook_rt.local.options import RealtimeOptions
from notebook_rt.local.realtime import pgoutput
from notebook_rt.local.realtime.hub import Hub
from notebook_rt.local.realtime.limits import EventRate
from notebook_rt.local.realtime.pgoutput import Relation, Row, Unchanged
from notebook_rt.local.realtime.protocol import UserBroadcast, dumps
from notebook_rt.local.realtime.wal import WalStream

log = logging.getLogger(__name__)

TOO_MANY = "Too many messages per second"
FORMAT_BYTES = 6
"""Bytes by which Erlang's external format, in which the real server measures a payload, is longer."""


class DatabaseBroadcasts:
    """Passes broadcasts from the log to the hub; ``rate`` is the rate of all broadcasts."""

    def __init__(
        self, options: RealtimeOptions, hub: Hub, rate: EventRate, stream: WalStream
    ) -> None:
        self._options = options
        self._hub = hub
        self._rate = rate
        self._stream = stream
        self._warm = asyncio.Event()
        self._warming: asyncio.TimerHandle | None = None

    # --- readiness

    def warm_up(self) -> None:
        """Handle a join: a project without clients starts to send after a delay."""
        if self._warming is None:
            self._warming = asyncio.get_running_loop().call_later(
                self._options.replication_delay, self._warm.set
            )
            if not self._options.replication_delay:
                self._warm.set()

    @property
    def ready(self) -> bool:
        """Whether messages committed now will be sent."""
        return self._warm.is_set() and self._stream.streaming.is_set()

    async def until_ready(self) -> None:
        await self._warm.wait()
        await self._stream.streaming.wait()

    # --- messages

    async def run(self, messages: AsyncGenerator[pgoutput.PgMessage, None]) -> None:
        """Follow the log until cancelled."""
        relations: dict[int, Relation] = {}
        async with aclosing(messages):
            async for message in messages:
                match message:
                    case pgoutput.Relation():
                        relations[message.oid] = message
                    case pgoutput.Insert(oid, new) if self._warm.is_set():
                        try:
                            self._insert(relations[oid], new)
                        except (
                            Exception
                        ):  # a message that cannot be sent does not affect the others
                            log.exception("a message of the database was dropped")

    def _insert(self, relation: Relation, new: Row) -> None:
        values = (None if isinstance(value, Unchanged) else value for value in new)
        row = dict(zip(relation.columns, values, strict=True))
        topic = row.get("topic")
        if row.get("extension") != "broadcast" or topic is None:
            return
        binary = row.get("binary_payload")
        payload = (
            bytes.fromhex(binary.removeprefix("\\x"))
            if binary is not None
            else (row.get("payload") or "null").encode()
        )
        meta = dumps({"id": row.get("id")})
        message = UserBroadcast(row.get("event") or "", payload, binary is None, meta)
        self._send((topic, row.get("private") == "t"), message)

    def _send(self, key: tuple[str, bool], message: UserBroadcast) -> None:
        size = len(message.payload)
        if size + FORMAT_BYTES > self._options.max_broadcast_bytes:
            log.warning(
                "UnableToBroadcastChanges: a payload of %d bytes for topic %r exceeds the limit",
                size,
                key[0],
            )
            return
        within = self._rate.has_room()
        if not within and self._options.over_rate == "silent":
            return
        self._rate.count(1 + self._hub.user_broadcast(key, message))
        if not within:
            for member in self._hub.members(key):
                member.fail(TOO_MANY)
