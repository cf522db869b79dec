"""The queue as the user sees it: pending and failed edits, the reasons, and the actions.

Used by ``Session.queue`` and ``notebook-rt queue``, so that a queue can be inspected, repaired and exported
when no kernel runs.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from notebook_rt.edits.editing import SendResult
from notebook_rt.edits.listing import in_states, reasons, state, what
from notebook_rt.edits.ops import Json, Op
from notebook_rt.errors import InvalidEditError, QueueError, WaitTimeoutError
from notebook_rt.hints import known_keywords
from notebook_rt.model.plain import plain, seconds
from notebook_rt.model.spec import check_name, check_text
from notebook_rt.model.types import coerce, to_json
from notebook_rt.outbox.account import Owner
from notebook_rt.outbox.queue import Outbox
from notebook_rt.outbox.sessions import Session, is_ended, session_of
from notebook_rt.quoting import printable
from notebook_rt.runtime.progress import WritesBar

if TYPE_CHECKING:
    import pandas as pd


logger = logging.getLogger("notebook_rt")


class Left(int):
    """The number of operations left in the queue, returned by ``Queue.flush``; ``own`` is the number of this
    session's.

    As an int it is the total; ``own`` is the number that a script is responsible for.
    """

    own: int
    """The operations that this session added, or edited last."""

    @classmethod
    def of(cls, own: int, others: int) -> Left:
        """Return the numbers of this session's operations and of other notebooks and scripts of the login."""
        made = cls(own + others)
        made.own = own
        return made

    @property
    def others(self) -> int:
        """The operations of other notebooks and scripts of this login, or of earlier runs."""
        return self - self.own

    def __repr__(self) -> str:
        return f"{int(self)} left: {self.own} of this session, {self.others} of others"

    __str__ = int.__repr__


class Queue:
    """The edits that wait to be sent. ``len(queue)`` is their number.

    Parameters
    ----------
    outbox : Outbox or callable
        The file, or a function that returns the current one.
    wake, pause, resume : callable, optional
        Notify the worker, from any thread.
    send : callable, optional
        Sends the pending edits now.
    held : callable, optional
        Returns the reason why the queue sends nothing; empty while it sends.
    display : callable, optional
        Returns the representation for a front end.
    listen : callable, optional
        Registers a function to call after every change, and returns a function to unregister it. Default:
        the file's own, as long as the file stays the same.
    call : callable, optional
        Stores the call of a function: its name, arguments, schema, and whether it may run twice.
    schema : str
        The schema of the functions.
    progress_after : float
        Seconds after which `flush` shows a progress bar. Default: never.
    """

    def __init__(
        self,
        outbox: Outbox | Callable[[], Outbox],
        *,
        wake: Callable[[], object] | None = None,
        send: Callable[[], object] | None = None,
        pause: Callable[[], object] | None = None,
        resume: Callable[[], object] | None = None,
        held: Callable[[], str] | None = None,
        display: Callable[[Queue], Any] | None = None,
        listen: Callable[[Callable[[], object]], Callable[[], None]] | None = None,
        call: Callable[[str, Mapping[str, Any], str, bool], SendResult] | None = None,
        schema: str = "public",
        progress_after: float = float("inf"),
    ) -> None:
        self._outbox = outbox
        self._wake = wake or _do_nothing
        self._send = send or _do_nothing
        self._pause = pause or _do_nothing
        self._resume = resume or _do_nothing
        self._held = held or str
        self._display = display
        self._listen = listen
        self._call = call
        self._schema = schema
        self._progress_after = progress_after

    @property
    def outbox(self) -> Outbox:
        """The file."""
        return self._outbox if isinstance(self._outbox, Outbox) else self._outbox()

    def on_change(self, fn: Callable[[], object]) -> Callable[[], None]:
        """Call ``fn()`` after every change, on any thread: it must be fast.

        An exception is logged once, and the calls continue.

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
        if not callable(fn):
            raise TypeError(f"Queue.on_change needs a function to call, not {fn!r}")
        return (self._listen or self.outbox.subscribe)(_harmless(fn))

    def __len__(self) -> int:
        return len(self.outbox)

    def __repr__(self) -> str:
        held = self._held()
        counts = in_states(self.outbox.ops(), always=("waiting", "failed", "asking"))
        return printable(f"<queue: {counts}{'; ' * bool(held)}{held}>")

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> Any:
        if self._display is not None:
            return self._display(self)
        return {"text/plain": repr(self), "text/html": str(self.df.to_html(escape=True))}

    @property
    def df(self) -> pd.DataFrame:
        """One row per operation, in order, indexed by its id (str).

        Columns: ``what``, a short description; ``state``: ``waiting``, ``sending``, ``parked`` (behind an
        earlier operation of the row that failed or has a conflict), ``failed`` (refused, or given up) or
        ``asking`` (an open conflict); ``attempts`` (int64); ``why``, the server's error, the decision that
        you have to make, or the reason for the wait; ``at`` (datetime64, UTC), the time of the edit;
        ``values`` (object), a dict of JSON values; ``session``, the notebook or script that edited it last,
        with its process and start time. Columns without a type here are str.
        """
        import pandas as pd

        ops, sessions = self.outbox.ops(), self.outbox.sessions()
        return pd.DataFrame(
            {
                "what": [what(op) for op in ops],
                "state": [state(op) for op in ops],
                "attempts": pd.Series([op.attempts for op in ops], dtype="int64").to_numpy(),
                "why": reasons(ops, lambda op: self._holds(op, sessions)),
                "at": pd.to_datetime([op.made_at for op in ops], unit="s", utc=True).as_unit("us"),
                "values": [dict(op.values) for op in ops],
                "session": [session_of(op, sessions) for op in ops],
            },
            index=pd.Index([op.id for op in ops], name="id", dtype=object),
        ).astype({**dict.fromkeys(("what", "state", "why", "session"), "str"), "values": object})

    def _holds(self, op: Op, sessions: Mapping[str, Session]) -> str:
        """Return why a waiting operation is not sent; empty if it only waits for the network."""
        if state(op) != "waiting":
            return ""
        session = sessions.get(op.session)
        if session is None or not session.paused or session.id == self.outbox.session.id:
            return self._held()
        if is_ended(session):
            return "its session ended while it was paused: resume(), or retry(id), sends it"
        return "its session is paused: it is sent once that goes on, or discard(id) drops it"

    @known_keywords
    def rpc(
        self,
        function: str,
        params: Mapping[str, Any] | None = None,
        *,
        schema: str | None = None,
        repeatable: bool = False,
    ) -> SendResult:
        """Call a function of the database now or once the server can be reached. The call is stored in the
        file first, like an edit. Its result is dropped; `Session.rpc` returns it. Calls run in order; a
        refused call is set aside and does not block later ones.

        Parameters
        ----------
        function : str
            Its name.
        params : dict, optional
            Its arguments by name: JSON values, also values of numpy and pandas, dates and times.
        schema : str, optional
            A schema other than the session's.
        repeatable : bool
            True: the function may run twice, so a call whose answer was lost is sent again. Otherwise such a
            call is set aside as ``failed``, because it is unknown whether it ran.

        Returns
        -------
        SendResult
            ``id`` identifies its row in ``df`` until the server has answered.

        Raises
        ------
        TypeError, ValueError
            If ``function`` is not a string, or ``params`` is not a dict or cannot be written as JSON.
        QueueError
            If it cannot be stored in the queue's file, or this is a file without a session.
        """
        args = arguments(function, params)
        if self._call is None:
            raise QueueError("calls are put down by a session: rt.queue.rpc(...)")
        check_text(schema, "schema")
        return self._call(function, args, schema or self._schema, repeatable)

    def retry(self, op: str | None = None) -> int:
        """Send failed operations again, and the pending ones of a session that ended while it was paused.

        Parameters
        ----------
        op : str, optional
            One operation, by its id (the index of ``df``). Default: all of them.

        Returns
        -------
        int
            The number of operations.

        Raises
        ------
        QueueError
            If the operation is not in the queue.
        """
        if op is not None and self.outbox.get(op) is None:
            raise _gone(op)
        done = self.outbox.retry(op)
        self._wake()
        return done

    def discard(self, op: str) -> int:
        """Drop one operation, and those that depend on it: edits of a row that was never inserted.

        Parameters
        ----------
        op : str
            Its id (the index of ``df``).

        Returns
        -------
        int
            The number of operations dropped.

        Raises
        ------
        QueueError
            If the operation is not in the queue.
        """
        dropped = self.outbox.discard(op)
        if not dropped:
            raise _gone(op)
        self._wake()
        return len(dropped)

    def edit(self, op: str, **values: Any) -> None:
        """Change columns of a failed operation, and send it again.

        Parameters
        ----------
        op : str
            Its id (the index of ``df``).
        **values
            Columns and their new values.

        Raises
        ------
        InvalidEditError
            If a value does not fit, or the operation has other columns.
        QueueError
            If the operation does not exist, or has not failed.
        """
        found = self.outbox.get(op)
        if found is None:
            raise _gone(op)
        if found.state != "failed":
            raise QueueError(f"operation {op} has not failed: edit the table instead")
        mended = {name: _json_of(found, name, value) for name, value in values.items()}
        self.outbox.mend(replace(found, values={**found.values, **mended}))
        self._wake()

    def pause(self) -> None:
        """Send nothing until `resume` in this session; new edits wait.

        No other session sends these edits. If this session ends before, or is killed, they stay in the
        queue, and the next session reports them: `resume` or `retry` sends them there.
        """
        self._pause()

    def resume(self) -> None:
        """Send pending edits, now and in the future; also those of sessions that ended while paused."""
        self._resume()

    def flush(self, timeout: float | None = None) -> Left:
        """Send all edits now, and wait until none is pending.

        In a notebook and in a terminal, a progress bar is shown if that takes long.

        Afterwards tables show the server's answers: its defaults, and values changed by triggers. A refused
        edit raises no exception: it is counted in the result, stays in the queue and, with its value, in
        ``df``, until you `retry`, `edit` or `discard` it; ``df.why`` has the server's error, and the
        session's ``health`` is ``refused`` until then.

        Parameters
        ----------
        timeout : float, optional
            Seconds.

        Returns
        -------
        Left
            The number of operations left: failed ones, conflicts, edits of another session that is (or
            ended while) paused, and edits parked behind these. An int with the attributes ``own``, the number
            of this session's, and ``others``, the number of other scripts' or of earlier runs.

        Raises
        ------
        QueueError
            If edits are not sent because the queue is paused or the login was refused.
        WaitTimeoutError
            If edits are still pending after ``timeout``.
        """
        timeout = seconds(timeout)
        until = None if timeout is None else time.monotonic() + timeout
        at_first = self.outbox.counts()["waiting"]
        self.outbox.send_held()
        self._send()
        with WritesBar(self._progress_after) as bar:
            while self.outbox.waits():
                if why := self._held():
                    waiting = self.outbox.counts()["waiting"]
                    raise QueueError(f"{why}; {waiting} of the queue wait{'s' * (waiting == 1)}")
                if until is not None and time.monotonic() >= until:
                    raise WaitTimeoutError(self._still_waiting(timeout or 0.0, at_first))
                bar.show(lambda: self.outbox.counts()["waiting"])
                time.sleep(0.02)
        self._wake()  # the latest answers are in the file: show them, too
        mine, left = self.outbox.session.id, self.outbox.ops()
        own = sum(op.session == mine for op in left)
        return Left.of(own, len(left) - own)

    def _still_waiting(self, seconds: float, at_first: int) -> str:
        ops = self.outbox.ops(state="waiting")
        one = len(ops) == 1
        said = next((op for op in ops if op.error), None)
        if said is None and len(ops) < at_first:
            return (
                f"{len(ops):,} of {at_first:,} operations still wait after {seconds:g} s: they go on being "
                "sent, unless the session's .health says otherwise; flush again, or give it longer. Edits to "
                "different values are a request each where the project lacks the SQL of `notebook-rt doctor "
                "--sql`"
            )
        why = "the session's .health says why" if said is None else f"{what(said)}: {said.error}"
        return (
            f"{len(ops)} operation{'' if one else 's'} still wait{'s' if one else ''} after {seconds:g} s: "
            f"{why}; {'it goes' if one else 'they go'} on waiting in the queue's file"
        )

    def export(self) -> list[dict[str, Json]]:
        """Return the whole queue as JSON values, for a file or another program.

        Returns
        -------
        list of dict
            One per operation, in order.
        """
        return [as_json(op) for op in self.outbox.ops()]


def _harmless(fn: Callable[[], object]) -> Callable[[], None]:
    """Return ``fn`` wrapped so that its exceptions do not reach the editing or sending code."""
    raised = False

    def call() -> None:
        nonlocal raised
        try:
            fn()
        except Exception:
            if not raised:
                raised = True
                logger.exception("Queue.on_change %r raised; it stays subscribed", fn)

    return call


def _do_nothing() -> None:
    """Do nothing: there is no worker to notify."""


def _gone(op: str) -> QueueError:
    return QueueError(f"operation {op} is not in the queue: it was sent, or discarded")


def as_json(op: Op) -> dict[str, Json]:
    """Return a whole operation as a dict."""
    owner = Owner.read(op.owner)
    return {
        "id": op.id,
        "project": owner.project,
        "login": owner.login,
        "what": what(op),
        "state": state(op),
        "why": op.error,
        "attempts": op.attempts,
        "at": dt.datetime.fromtimestamp(op.made_at, dt.UTC).isoformat(),
        "kind": op.kind,
        "schema": op.schema,
        "target": op.target,
        "key": dict(op.key),
        "values": dict(op.values),
        "base": dict(op.base),
        "event": op.event,
    }


def dumps(value: Json) -> str:
    """Return JSON for people and programs; control sequences of terminals are escaped."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def _json_of(op: Op, column: str, value: Any) -> Json:
    """Return a user's value for a column of a failed operation."""
    pg_type = op.types.get(column)
    try:
        if pg_type is not None:
            return to_json(pg_type, coerce(pg_type, value, numeric="decimal"))
        if op.kind == "update" and column not in op.values:
            raise ValueError(f"it is about {', '.join(op.values)}; edit the table instead")
        return plain(value, column)
    except (TypeError, ValueError) as error:
        raise InvalidEditError(f"{what(op)}: {column}: {error}", str(error), column) from None


def arguments(function: object, params: object) -> dict[str, Any]:
    """Return the arguments of a call as JSON values.

    Raises
    ------
    TypeError, ValueError
        If ``function`` is not a name, or ``params`` is not a dict or cannot be written as JSON.
    """
    check_name(function, "function")
    if not isinstance(params, Mapping | None):
        raise TypeError(f'the params of "{function}" must be a dict, such as {{"amount": 10}}')
    found: dict[str, Any] = plain(dict(params or {}), f'function "{function}", params')
    return found
