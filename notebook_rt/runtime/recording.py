"""Records a table's past while it is live: what its driver receives goes to a ``Past`` (``sync/history``).

Input, on the loop: the operations that the mirror reports, the effects that explain them, and the status. The
user's threads read the past. The loop never waits for a reader: while a reader holds the lock, new entries
are queued, and the next thread that takes the lock records them.

Only the server's state is recorded, never a pending edit. The answer to a write reports the same state as the
change that follows it, but earlier and without a commit time; it is recorded only if that change does not
arrive.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Final, Protocol, TypeVar

from notebook_rt.edits.overlay import SHIELD_SECONDS, Overlay
from notebook_rt.model.rows import Delete, Key, Op, Upsert
from notebook_rt.model.types import differs
from notebook_rt.runtime.archiving import AHEAD, Archiving
from notebook_rt.runtime.keeping import Disk
from notebook_rt.runtime.observed import ObservedTable
from notebook_rt.store.places import Places
from notebook_rt.store.table import Table
from notebook_rt.sync.events import Effect, Logged, Published, Ranked
from notebook_rt.sync.history.past import Past, View
from notebook_rt.sync.history.record import microseconds

T = TypeVar("T")

FORGET_EVERY: Final = 1.0
"""Seconds between two checks whether something must be forgotten."""
PROOFS: Final = ("audit", "reconciled")
"""The events that report a comparison with the server."""
LOST: Final = "changes had been lost without a word, and an audit found it"


class Driver(ObservedTable, Protocol):
    """The part of a live table's driver that `Recording` uses."""

    recording: Recording | None


class Recording:
    """The past of one driver's table. Everything runs on the loop, except where noted.

    Parameters
    ----------
    span : int
        Microseconds.
    most : int
        Bytes.
    """

    def __init__(self, driver: Driver, span: int, most: int) -> None:
        self.driver = driver
        self.lock = threading.RLock()
        self._past = Past(span, most)
        self._past.places = self._places = Places(driver.spec.order)
        self._waiting: deque[Callable[[], object]] = deque()
        self._overlay: Overlay | None = None
        self._answers: dict[Key, tuple[Op, float]] = {}
        """Answers to writes, and their arrival times, until the change that follows is received."""
        self._live: bool | None = None
        """Whether changes are being received; None: to be judged again."""
        self._doubted: tuple[int, int] | None = None
        """The interval in which the rows changed that an audit has read: lost changes, unless late ones
        explain them."""
        self._before: int | None = None
        """The time of the comparison before the last one."""
        self._undecided: frozenset[Key] = frozenset()
        """Rows that the last comparison left undecided and that still are."""
        self._forgot_at = 0.0
        self._forgetting: asyncio.Task[None] | None = None
        self.listeners: list[Callable[[], object]] = []
        """Called on the loop when something may have changed."""
        self._in_time = self.knows_the_time
        """Whether everything that was recorded is dated by the server's clock, not by this machine's."""
        self.closed = False
        self.archiving: Archiving | None = None
        """Writes the past to the disk; None if that was not requested."""

    def now(self) -> int:
        """Return the server's time, as far as it is known. From any thread."""
        return round(self.driver.services.rest.clock() * 1e6)

    @property
    def knows_the_time(self) -> bool:
        """Whether the server's time is known."""
        return self.driver.services.rest.server_clock.is_known

    def read(self, fn: Callable[[Past], T]) -> T:
        """Return ``fn(past)`` for the past up to now. From any thread; ``fn`` may take long."""
        with self.lock:
            self._drain()
            return fn(self._past)

    # Events ---------------------------------------------------------------------------------------

    def bound(self, span: int, most: int) -> None:
        """Set how much is kept from now on."""

        def set_bounds() -> None:
            self._past.span, self._past.most = span, most

        self._do(set_bounds)

    def archive(self, disk: Disk) -> None:
        """Write it to the disk from now on, after what an earlier kernel wrote."""
        if self.archiving is None and not self.closed:
            try:
                self.archiving = Archiving(self, self.driver, disk)
            except OSError as error:
                what = f'the history of table "{self.driver.name}"'
                disk.say(f"{what} cannot be written to the disk: {error}")

    def start(self) -> None:
        """Start with the rows that are shown."""
        if self.driver.overlay is not None:
            self.show(self.driver.overlay, "snapshot")
            self.judge()

    def show(self, overlay: Overlay, cause: str = "snapshot", before: float | None = None) -> None:
        """Begin the past again with the whole table; since now, or just before the commit time ``before``."""
        driver, schema = self.driver, overlay.schema
        table, ordered = driver.table, driver.ordered
        if table is None or self.closed:
            return
        if self._overlay is not None:
            self._overlay.heard = None
        self._overlay = overlay
        self._answers.clear()
        with driver.services.lock:
            overlay.heard, overlay.answers = [], []
            base, reverting = table.parts(), overlay.reverting()
        if reverting:  # pending edits are not history
            server = Table(schema)
            server.restore({name: parts.own() for name, parts in base.items()})
            server.apply(reverting)
            base = server.parts()
        spec = driver.spec
        view = View(spec.order, spec.limit, () if ordered is None else ordered.carried)
        since = self.now() if before is None else microseconds(before) - 1
        self._do(partial(self._past.begin, schema, base, since, view, cause))
        self._learn_order(overlay)
        self._live = None

    def _learn_order(self, overlay: Overlay) -> None:
        """Keep the order that the server has reported, for rows that it knows in their current state."""
        ordered = self.driver.ordered
        if ordered is None or ordered.sortable:
            return
        with self.driver.services.lock:
            edited = {op.key for op in overlay.reverting()}
        self._places.learn(ordered.table, ordered.ranked, edited)

    def receive(self, effects: Sequence[Effect]) -> None:
        """Record what the mirror has reported, and the effects that explain it."""
        overlay = self._overlay
        if overlay is None or self.closed:
            return
        if not self._in_time and self.knows_the_time:
            self._in_time = True
            self._correct(overlay)
        cause = "refetch"
        for effect in effects:
            if isinstance(effect, Published):
                cause = effect.cause
            elif isinstance(effect, Ranked):
                self._learn_order(overlay)
        ops = overlay.heard
        if ops:
            overlay.heard = []
        if ops:
            self._do(partial(self._past.add, ops, cause, self.now()))
        if overlay.answers or self._answers:
            compared = any(isinstance(one, Logged) and one.what in PROOFS for one in effects)
            unheard = self._missing_changes(overlay, ops or (), compared)
            self._do(partial(self._past.add, unheard, "refetch", self.now()))
            ops = [*(ops or ()), *unheard]
        for effect in effects:
            if isinstance(effect, Logged):
                self._on_logged(effect)
        self.judge()
        if self.archiving is not None:
            self.archiving.schedule()
        if ops:
            for listener in self.listeners:
                listener()
            self._forget_soon()

    def _correct(self, overlay: Overlay) -> None:
        """Begin again if entries are dated in the future, now that the server's time is known."""
        now = self.now()
        if self.read(lambda past: past.correct(now + AHEAD)):
            self.driver.services.on_note(
                "info",
                f'the history of table "{self.driver.name}" begins anew: the clock of this machine was '
                "ahead of the server's",
            )
            self.show(overlay)

    def judge(self) -> None:
        """Record, from the status, that changes are being lost, or no longer are."""
        mirror = self.driver.machine
        if self._undecided:
            self._undecided &= mirror.undecided
        # The state of a row that the comparison left undecided is unknown until it is read, or changes.
        live = mirror.status == "live" and (bool(self._live) or not self._undecided)
        if live != self._live:
            self._live = live
            if live:
                self._do(partial(self._past.regain, self.now()))
            else:
                self._do(partial(self._past.lose, mirror.reported_reason))

    def lose(self, reason: str) -> None:
        """Record that changes are no longer received."""
        self._live = False
        self._do(partial(self._past.lose, reason))

    def drop(self) -> None:
        """Forget everything: another login may not see it."""
        self._overlay = self._live = None
        self._answers.clear()
        self._places.forget()
        self._do(self._past.drop)

    def close(self) -> None:
        """Stop recording; the past stays available to whoever holds it."""
        if self.closed:
            return
        self.closed = True
        if self._overlay is not None:
            self._overlay.heard, self._overlay.answers = None, []
        self.driver.recording = None
        self._do(partial(self._past.lose, "it is not recorded any more"))
        if self.archiving is not None:
            self.archiving.close()
        for listener in tuple(self.listeners):
            listener()

    def _on_logged(self, effect: Logged) -> None:
        match effect.what:
            case what if what in PROOFS:
                now, elapsed = self.now(), effect.detail.get("elapsed", 0.0)
                began = now - round(elapsed * 1e6)
                undecided = effect.detail.get("undecided", frozenset())
                self._undecided = undecided
                differing = bool(effect.detail.get("differing"))
                self._do(partial(self._prove, now, began, undecided, differing=differing))
            case "refetch":
                self._do(partial(self._doubt, self.now()))
            case "explained":
                self._do(self._explain)
            case "drift":
                self._do(self._found)
            case "overtaken":
                self._do(partial(self._past.overtaken, *self._overtaken(effect.detail)))
            case _:
                pass

    def _prove(self, now: int, began: int, undecided: Collection[Key], *, differing: bool) -> None:
        self._before = self._past.prove(now, began, undecided)
        if differing:
            self._doubt(now)

    def _doubt(self, now: int) -> None:
        """Note that rows differ from the recorded ones; whether their changes were lost is not known yet."""
        if self._live and self._doubted is None and self._before is not None:
            self._doubted = (self._before, now)

    def _overtaken(self, detail: Mapping[str, float]) -> tuple[int, int]:
        if "ago" in detail:
            now = self.now()
            return now - round(detail["ago"] * 1e6), now
        return round(detail["since"] * 1e6), round(detail["until"] * 1e6)

    def _explain(self) -> None:
        self._doubted = None

    def _found(self) -> None:
        if self._doubted is not None:
            self._past.found(*self._doubted, LOST)
            self._doubted = None

    def _missing_changes(self, overlay: Overlay, ops: Sequence[Op], compared: bool) -> list[Op]:
        """Return the server's rows for answers whose change has not arrived in time.

        If the table was ``compared`` with the server, return all of them: their state was part of the
        comparison.
        """
        now = time.monotonic()
        answers, overlay.answers = overlay.answers, []
        self._answers.update((op.key, (op, now)) for op in answers)
        # These operations arrived after the answers; an answer after its change does not count (`Overlay`).
        for op in ops:
            waits = self._answers.get(op.key)
            if waits is not None and _agree(op, waits[0]):
                del self._answers[op.key]
        late = [
            key for key, (_, at) in self._answers.items() if compared or at < now - SHIELD_SECONDS
        ]
        found: list[Op] = []
        for key in late:
            del self._answers[key]
            row = overlay.get(key)
            found.append(Delete(key) if row is None else Upsert(key, row))
        return found

    def _do(self, what: Callable[[], object]) -> None:
        self._waiting.append(what)
        if self.lock.acquire(blocking=False):
            try:
                self._drain()
            finally:
                self.lock.release()

    def _drain(self) -> None:
        while self._waiting:
            self._waiting.popleft()()

    def _forget_soon(self) -> None:
        now = time.monotonic()
        if now - self._forgot_at >= FORGET_EVERY and self._forgetting is None:
            self._forgot_at = now
            self._forgetting = self.driver.thread.spawn(self._forget(), "forget a table's past")
            self._forgetting.add_done_callback(self._forgotten)

    async def _forget(self) -> None:
        now = self.now()
        await asyncio.to_thread(self.read, lambda past: past.forget(now))

    def _forgotten(self, task: asyncio.Task[None]) -> None:
        self._forgetting = None


def _agree(op: Op, answer: Op) -> bool:
    """Return whether a change is the one whose answer arrived before."""
    if isinstance(op, Delete) or isinstance(answer, Delete):
        return isinstance(op, Delete) and isinstance(answer, Delete)
    return not differs(op.row, answer.row)
