"""The durable queue: an operation is in the file when the call returns (promises, edits).

SQLite in WAL mode, one ``BEGIN IMMEDIATE`` per call. User actions are committed with
``synchronous=NORMAL``: a killed kernel loses nothing, because the operating system has the pages.
The worker's steps are committed with ``FULL``, which also syncs everything before them: an operation
is sent only once it would survive a power cut, and `flush` limits what is unsynced while offline.

Several kernels share a file. One of them at a time holds the *lease* and sends. A fencing number
increases whenever the lease changes hands, and every step of a worker that no longer holds it is
refused. Several logins may share a file, too: each sees, sends and leases only its own operations.
Operations of one *lane* (a row, a topic) are sent in order: only the first is not ``blocked``, and a
failed one blocks the rest.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from notebook_rt.edits import decide, statements
from notebook_rt.edits.decide import Record
from notebook_rt.edits.listing import question
from notebook_rt.edits.ops import Json, Op, OpState, Put, changes_key
from notebook_rt.errors import QueueError
from notebook_rt.model.signal import Signal
from notebook_rt.model.stored import decode, encode
from notebook_rt.outbox import decisions, rows, sessions
from notebook_rt.outbox.account import Owner
from notebook_rt.outbox.file import open_file
from notebook_rt.outbox.lease import LEASE_SECONDS, Lease
from notebook_rt.outbox.salvage import is_damage
from notebook_rt.outbox.sessions import Session

TURNS = 16
"""Maximum rounds of concurrent statements that are taken together: between two takes none is in flight,
and the file is written."""
ROWS_AT_ONCE = 1_000
"""Maximum number of operations taken at a time."""
KEPT_DONE = 10_000
"""Number of settled operations that other kernels on the file can still look up."""


class Outbox:
    """The queue's file. Every method may be called from any thread, and blocks for a commit.

    Parameters
    ----------
    path : Path
        The file; created with mode 0600 if it does not exist.
    owner : Owner, optional
        Whose operations are put in, seen and sent; those of other owners are not touched. Operations
        that an older version left in the file without an owner go to the first owner who opens it.
        Default: the operations of all owners are seen, as ``notebook-rt queue`` needs it.
    kernel : str, optional
        The name of this kernel, for the lease; unique by default.

    Raises
    ------
    QueueError
        If the file cannot be created or written: the disk is full, or the directory is read-only.
        The operations are then not in it.
    """

    def __init__(
        self,
        path: Path | str,
        owner: Owner | None = None,
        *,
        kernel: str | None = None,
        lease: float = LEASE_SECONDS,
    ) -> None:
        self.path = Path(path)
        self._owner = None if owner is None else str(owner)
        kernel = kernel or (owner.session if owner is not None else "") or None
        self._lease = Lease(self._owner or "", seconds=lease)
        if kernel is not None:
            self._lease.kernel = kernel
        self.session = Session(self._lease.kernel, sessions.program(), time.time())
        """The session that puts operations in here."""
        self._noted = False
        self._edited = False
        self._reached = 0
        """Number of operations taken last time, if it was large."""
        self.more = True
        """Whether there may be operations ready to send that the last `take` has not returned."""
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._changed: Signal[()] = Signal()
        self._unsynced = False
        self._open()

    @property
    def role(self) -> str:
        """The PostgreSQL role under which the owner's writes are sent; see `Owner.role`."""
        return "anon" if self._owner is None else Owner.read(self._owner).role

    def _open(self) -> None:
        self._db = open_file(self.path)
        self._synced = False
        """Whether commits sync, as the connection is set now."""
        self._closed = False
        self._file = _identity(self.path)
        if self._owner is not None:
            self._claim(self._owner)

    def close(self) -> None:
        with self._lock:
            with contextlib.suppress(QueueError):
                self.release()
                if self._noted:
                    with self._writing() as db:
                        sessions.end(db, self.session, time.time())
            self._closed = True
            self._db.close()

    def subscribe(self, fn: Callable[[], object]) -> Callable[[], None]:
        """Call ``fn`` after every change made through this object; return a function that ends it."""
        return self._changed.add(fn)

    def notify(self) -> None:
        """Notify subscribers of a change. The caller of the worker's steps calls it, on its own thread."""
        self._changed.notify()

    # --- putting in ------------------------------------------------------------------------------

    def put(self, *ops: Op, merge: bool = True) -> list[Put]:
        """Commit operations, all or none; unsent operations of one row become one.

        Raises
        ------
        QueueError
            If they could not be committed: none of them is in the queue.
        """
        with self._writing() as db:
            if not self._noted:
                sessions.note(db, self.session)
            results = rows.put(
                db,
                self._lease.owner,
                ops,
                merge=merge,
                session=self.session.id,
                is_paused=partial(sessions.is_paused, db),
            )
            self._unsynced = True
        self._noted = self._edited = True
        self._decided()
        return results

    @property
    def edited(self) -> bool:
        """Whether any operation was put in here."""
        return self._edited

    def pause(self, paused: bool) -> None:
        """Stop sending operations put in here; or send them, and those that other sessions left paused."""
        self.session = replace(self.session, paused=paused)
        with self._writing(synced=True) as db:
            sessions.note(db, self.session)
            if not paused:
                self._take_over(db, sessions.left(db, self.session.id))
        self._noted = True
        self._decided()

    def adopt(self, earlier: Collection[str]) -> None:
        """Assign to this session the operations put in under ``earlier`` ids, paused or not."""
        known = [one for one in self.sessions() if one in earlier and one != self.session.id]
        if known:
            with self._writing() as db:
                self._take_over(db, known)

    # --- looking in ------------------------------------------------------------------------------

    def __len__(self) -> int:
        return int(self._select("count(*)")[0][0])

    def get(self, op: str) -> Op | None:
        with self._lock, _errors(self.path):
            return self._find(self._db, op)

    def ops(
        self, *, schema: str | None = None, target: str | None = None, state: OpState | None = None
    ) -> list[Op]:
        """Return the operations in the queue, in order."""
        found = self._select("*", "order by seq", schema=schema, target=target, state=state)
        with _errors(self.path):
            return list(map(rows.op_of, found))

    def versions(self, schema: str, target: str) -> dict[str, float]:
        """Return the ids of a table's operations, in order, and when each was last edited."""
        found = self._select("id, made_at", "order by seq", schema=schema, target=target)
        return {row["id"]: row["made_at"] for row in found}

    def states(self, schema: str, target: str) -> dict[str, str]:
        """Return the ids of a table's operations, and whether each waits, failed or asks."""
        return dict(map(tuple, self._select("id, state", schema=schema, target=target)))

    def counts(self) -> dict[str, int]:
        """Return how many operations wait, failed, and ask."""
        found = self._select("state, count(*)", "group by state")
        return {"waiting": 0, "failed": 0, "asking": 0, **dict(map(tuple, found))}

    def refused(self, **wanted: str) -> tuple[int, Op | None]:
        """Return how many failed (of one ``schema`` and ``target``), and the last of them."""
        return self._last("failed", **wanted)

    def undecided(self) -> tuple[tuple[int, Op | None], tuple[int, Op | None]]:
        """Return how many were refused, and how many ask, each with the last of them."""
        return self.refused(), self._last("asking")

    def _last(self, state: OpState, **wanted: str) -> tuple[int, Op | None]:
        """Return how many are in this state, and the last of them."""
        ((number, last),) = self._select("count(*), max(seq)", state=state, **wanted)
        return (number, self.get(self._select("id", seq=last)[0]["id"])) if number else (0, None)

    def sessions(self) -> dict[str, Session]:
        """Return the sessions that put operations in here, by their id."""
        with self._lock, _errors(self.path):
            return sessions.find(self._db)

    def left(self) -> list[Op]:
        """Return the waiting operations of other sessions that were paused when they ended."""
        with self._lock, _errors(self.path):
            ended = sessions.left(self._db, self.session.id)
        return [op for op in self.ops(state="waiting") if op.session in ended] if ended else []

    def others(self) -> dict[Owner, int]:
        """Return the number of operations of each other owner, which are neither seen nor sent here."""
        with self._lock, _errors(self.path):
            found = self._db.execute(
                "select owner, count(*) from ops where owner != ? group by owner",
                (self._lease.owner,),
            )
            return {Owner.read(owner): number for owner, number in found}

    def changed(self) -> int:
        """Return a number that changes when another process writes to the file."""
        with self._lock, _errors(self.path):
            return int(self._db.execute("pragma data_version").fetchone()[0])

    def outcome(self, op: str) -> tuple[bool, dict[str, Json] | None]:
        """Return whether an operation is settled, and the row that the server returned."""
        with self._lock, _errors(self.path):
            row = self._db.execute("select row from done where id = ?", (op,)).fetchone()
        return row is not None, decode(row["row"]) if row and row["row"] else None

    # --- the user's decisions --------------------------------------------------------------------

    def retry(self, op: str | None = None) -> int:
        """Send failed operations again, and send those of sessions that ended while they were paused.

        All of them by default. Return the number of operations.
        """
        where, given = self._where(id=op, state="failed")
        with self._writing() as db:
            done = self._take_over(db, sessions.left(db, self.session.id), op)
            # The outcome of these is unknown: sending one again asserts that it was not applied.
            done += db.execute(
                "update ops set state = 'waiting', attempts = 0, not_before = 0, error = '', "
                "sent = sent and not (kind = 'rpc' or "
                "(kind = 'insert' and json_extract(body, '$.key') is null)) "
                f"where {where}",
                given,
            ).rowcount
        self._decided()
        return done

    def send_held(self) -> None:
        """Send operations now that are only held back briefly so that they can be undone."""
        where, given = self._where(state="waiting", attempts=0, error="")
        with self._writing() as db:
            db.execute(f"update ops set not_before = 0 where not_before > 0 and {where}", given)
        self._decided()

    def discard(self, op: str) -> list[Op]:
        """Drop an operation, and those that depend on it: later edits of a row never inserted."""
        with self._writing() as db:
            found = self._find(db, op)
            if found is None:
                return []
            dropped = [found]
            if found.kind == "insert" or changes_key(found):
                dropped += rows.later(db, found)
            for one in dropped:
                rows.remove(db, one)
                decisions.drop_open(db, one)
        self._decided()
        return dropped

    def decline(self, op: str, theirs: Mapping[str, Json], now: float) -> list[Op]:
        """Drop an operation that gives way to another writer's row ``theirs``, and nothing else.

        The later edits of an insert's row become edits of ``theirs``. The first one that removes ``theirs``
        from its key asks, because it was made for another row.
        """
        with self._writing() as db:
            found = self._find(db, op)
            if found is None:
                return []
            rows.remove(db, found)
            decisions.drop_open(db, found)
            taking = [one for one in rows.later(db, found) if decide.takes_row(one)]
            if found.kind == "insert" and taking:
                record = decide.of_another_row(taking[0], theirs, now)
                rows.store(db, replace(taking[0], state="asking", error=question(record)))
                decisions.keep(db, taking[0], [record])
        self._decided()
        return [found]

    def mend(self, op: Op, *, decided: Iterable[int] = (), asks: bool = False) -> bool:
        """Replace a failed or asking operation by another version, to be sent now.

        Parameters
        ----------
        decided
            The numbers of the open conflicts that this decides.
        asks
            Whether other conflicts of it are still open: then it stays as it is.
        """
        with self._writing() as db:
            stored = self._find(db, op.id)
            if stored is None or stored.state == "waiting":
                return False
            decisions.close(db, decided)
            sessions.note(db, self.session)
            self._noted = True
            # A row that may already be inserted is no longer identified by its key alone: its values differ.
            mended = replace(op, own_key=op.own_key and not stored.sent, session=self.session.id)
            if not asks:
                mended = replace(
                    mended, state="waiting", attempts=0, not_before=0.0, error="", sent=False
                )
                mended = replace(mended, untold=False)
            rows.store(db, mended)
        self._decided()
        return True

    def take_back(self, puts: Iterable[Put]) -> list[Put]:
        """Undo the results of `put`, the last first, unless they were sent or edited since."""
        with self._writing() as db:
            undone = [
                put for put in reversed([*puts]) if rows.take_back(db, self._lease.owner, put)
            ]
        self._decided()
        return undone

    # --- merge records ---------------------------------------------------------------------------

    def conflicts(
        self, schema: str | None = None, target: str | None = None, *, only_open: bool = False
    ) -> list[Record]:
        """Return the recorded merge decisions, oldest first."""
        with self._lock, _errors(self.path):
            return decisions.find(self._db, self._owner, schema, target, only_open=only_open)

    def unrecorded(self, op: Op, records: Sequence[dict[str, Json]]) -> list[dict[str, Json]]:
        """Return the merge decisions about an operation that are not recorded yet."""
        with self._lock, _errors(self.path):
            return decisions.unrecorded(self._db, op.id, records)

    def record(self, op: Op, *records: dict[str, Json]) -> None:
        """Record the user's decisions."""
        with self._writing() as db:
            decisions.keep(db, op, records)
        self._decided()

    # --- the worker's steps ----------------------------------------------------------------------

    def lease(self, now: float) -> bool:
        """Take or extend the lease. Return False if another living kernel has it."""
        with self._writing(synced=True) as db:
            return self._lease.take(db, now)

    def release(self) -> None:
        """Let another kernel send."""
        if not self._lease.fence:
            return
        with self._writing(synced=True) as db:
            self._lease.release(db)

    def flush(self) -> None:
        """Make all operations survive a power cut, if they do not yet."""
        with self._lock:
            if self._unsynced:
                with self._writing(synced=True) as db:
                    # Any commit syncs the log up to itself (sqlite.org/pragma.html#pragma_synchronous).
                    self._lease.sync(db)
                self._unsynced = False

    def take(self, limit: int, now: float, many: bool = False) -> list[Op]:
        """Return the next operations to send, marked as sent; none without the lease.

        As many as fit in a few rounds of ``limit`` statements, each for several rows where possible (any
        updates, with ``many``). ``sent`` of the returned operations is whether they had been sent *before*,
        unanswered.
        """
        with self._writing(synced=True) as db:
            if not self._lease.take(db, now):
                return []
            ops, self.more = self._next(db, limit, now, many)
            db.executemany("update ops set sent = 1 where seq = ?", [(op.seq,) for op in ops])
        return ops

    def _next(
        self, db: sqlite3.Connection, limit: int, now: float, many: bool
    ) -> tuple[list[Op], bool]:
        """Return what fits in at most `TURNS` times ``limit`` statements (one statement alone if ``limit``
        is 1), and whether more waits.
        """
        paused = sessions.held(db, self.session.id)
        asked, (ops, more) = limit, rows.ready(db, self._lease.owner, limit, now, paused)
        while limit > 1 and len(ops) == asked < ROWS_AT_ONCE:
            asked = max(min(4 * asked, ROWS_AT_ONCE), self._reached)
            self._reached = 0
            further, still_more = rows.ready(db, self._lease.owner, asked, now, paused)
            groups = statements.runs(further, many=many)
            number = sum(len(statements.split(group, many=many)) for group in groups)
            if number > TURNS * limit or any(op.kind == "broadcast" for op in further):
                break
            ops, more = further, still_more
            self._reached = len(ops)  # the next ones are mostly of the same kind
        return ops, more

    def next_at(self) -> float | None:
        """Return when the next operation may be sent, or None if nothing waits."""
        where, given = self._where(state="waiting", blocked=0)
        with self._lock, _errors(self.path):
            paused = sessions.held(self._db, self.session.id)
            moment = rows.next_at(self._db, where, given, paused)
        return None if moment is None else float(moment)

    def waits(self) -> bool:
        """Return whether any unblocked operation waits; cheap for any number of operations."""
        where, given = self._where(state="waiting", blocked=0)
        with self._lock, _errors(self.path):
            paused = sessions.held(self._db, self.session.id)
            return rows.waits(self._db, where, given, paused)

    def settle(self, op: Op, row: Json = None, records: Sequence[dict[str, Json]] = ()) -> None:
        """Mark an operation as done; ``row`` is the server's answer."""
        self.settle_all([(op, row)], records)

    def settle_all(
        self, done: Sequence[tuple[Op, Json]], records: Sequence[dict[str, Json]] = ()
    ) -> None:
        """Mark several operations as done, in one commit; ``records`` belong to the first."""
        with self._fenced() as db:
            if records:
                decisions.keep(db, done[0][0], records)
            for op, row in done:
                rows.remove(db, op)
                text = None if row is None else encode(row).decode()
                db.execute("insert or replace into done values (?, ?, ?)", (op.id, op.seq, text))
            db.execute("delete from done where seq <= ?", (done[-1][0].seq - KEPT_DONE,))

    def unsent(self, ops: Iterable[Op]) -> None:
        """Restore the earlier ``sent`` of taken operations that were certainly not sent and still wait."""
        with self._fenced() as db:
            db.executemany(
                "update ops set sent = ? where id = ? and state = 'waiting'",
                [(op.sent, op.id) for op in ops],
            )

    def back(self, op: Op, records: Sequence[dict[str, Json]] = ()) -> None:
        """Return an operation to the queue with the state, times and error of ``op``."""
        with self._fenced() as db:
            decisions.keep(db, op, records)
            rows.store(db, op)

    def back_all(self, ops: Sequence[Op]) -> None:
        """Return several operations to the queue, in one commit."""
        with self._fenced() as db:
            for op in ops:
                rows.store(db, op)

    def _take_over(self, db: sqlite3.Connection, left: Sequence[str], op: str | None = None) -> int:
        """Assign the operations of the sessions ``left`` to this one; return how many of them wait."""
        if not left:
            return 0
        where, given = self._where(id=op)
        taken = db.execute(
            f"update ops set session = ? where {where} and session in ({', '.join('?' * len(left))}) "
            "returning state",
            [self.session.id, *given, *left],
        ).fetchall()
        sessions.note(db, self.session)
        self._noted = True
        return [row["state"] for row in taken].count("waiting")

    # --- inside ----------------------------------------------------------------------------------

    def _where(self, **wanted: object) -> tuple[str, list[object]]:
        """Return a condition on the owner's operations (or all), and its values; None: any."""
        given = {name: value for name, value in wanted.items() if value is not None}
        if self._owner is not None:
            given = {"owner": self._owner, **given}
        return " and ".join(f"{name} = ?" for name in given) or "true", list(given.values())

    def _select(self, what: str, how: str = "", **wanted: object) -> list[sqlite3.Row]:
        where, given = self._where(**wanted)
        with self._lock, _errors(self.path):
            return self._db.execute(f"select {what} from ops where {where} {how}", given).fetchall()

    def _find(self, db: sqlite3.Connection, op: str) -> Op | None:
        where, given = self._where(id=op)
        row = db.execute(f"select * from ops where {where}", given).fetchone()
        return None if row is None else rows.op_of(row)

    def _claim(self, owner: str) -> None:
        """Claim operations that an older version left without an owner, or an ended session of our login."""
        with self._lock, _errors(self.path):
            found = self._db.execute("select owner from ops union select owner from conflicts")
            left = [row["owner"] for row in found if self._is_left(owner, row["owner"])]
        if left:
            with self._writing() as db:
                for one in left:
                    rows.claim(db, owner, one)

    def _is_left(self, owner: str, other: str) -> bool:
        if not other:
            return True
        session_of, session = replace(Owner.read(other), session=""), Owner.read(other).session
        return bool(session) and str(session_of) == owner and sessions.is_over(self._db, session)

    @contextlib.contextmanager
    def _fenced(self) -> Iterator[sqlite3.Connection]:
        with self._writing(synced=True) as db:
            self._lease.check(db)
            yield db

    @contextlib.contextmanager
    def _writing(self, *, synced: bool = False) -> Iterator[sqlite3.Connection]:
        if self._pid != os.getpid():
            # SQLite's connections do not survive a fork (sqlite.org/howtocorrupt.html, 2.6).
            raise QueueError(f"the queue {self.path} was opened before a fork: connect again")
        with self._lock, _errors(self.path):
            if not self._closed and _identity(self.path) != self._file:
                # Another kernel found it damaged, and saved what was readable in a new file.
                self._db.close()
                self._noted = False
                self._open()
            db = self._db
            if synced != self._synced:
                db.execute(f"pragma synchronous = {'full' if synced else 'normal'}")
                self._synced = synced
            db.execute("begin immediate")
            try:
                yield db
                db.execute("commit")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    db.execute("rollback")
                raise

    def _decided(self) -> None:
        """Note that the user has changed the queue: there may be more to send."""
        self.more = True
        self.notify()


def _identity(path: Path) -> tuple[int, int] | None:
    """Return which file has this name now."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.ProgrammingError as error:
        raise QueueError(f"the queue {path} is closed: connect again") from error
    except msgspec.DecodeError as error:
        hint = "connect again, and what can be read of it is saved"
        raise QueueError(f"the queue {path} is damaged: {hint}") from error
    except sqlite3.Error as error:
        code: Any = getattr(error, "sqlite_errorcode", 0)
        hint = str(error)
        if code & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            hint = "the disk is full or cannot be written; free some space and do it again"
        elif is_damage(error):
            hint = "the file is damaged; connect again, and what can be read of it is saved"
        raise QueueError(f"nothing was written to the queue {path}: {hint}") from error
