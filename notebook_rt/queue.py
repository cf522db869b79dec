"""The queue as the user sees it: what waits, what failed and why, and what can be done about it.

Behind ``Session.queue`` and behind ``notebook-rt queue``, so a queue can be looked at, mended and
exported when no kernel runs.
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
from notebook_rt.outbox.sessions import Session, is_ended, whose
from notebook_rt.quoting import printable
from notebook_rt.runtime.progress import WritesBar

if TYPE_CHECKING:
    import pandas as pd


logger = logging.getLogger("notebook_rt")


class Left(int):
    """How many operations are left in the queue, ``own`` of them of this session; made by ``Queue.flush``.

    It is the number of all: ``own`` is what a script answers for.
    """

    own: int
    """Those that this session put in, or edited last."""

    @classmethod
    def of(cls, own: int, others: int) -> Left:
        """So many of this session's, and of other notebooks and scripts of the login."""
        made = cls(own + others)
        made.own = own
        return made

    @property
    def others(self) -> int:
        """Those of other notebooks and scripts of this login, or of earlier runs."""
        return self - self.own

    def __repr__(self) -> str:
        return f"{int(self)} left: {self.own} of this session, {self.others} of others"

    __str__ = int.__repr__


class Queue:
    """What waits to be sent. ``len(queue)`` counts it all.

    Parameters
    ----------
    outbox : Outbox or callable
        The file; a function is asked for the present one.
    wake, pause, resume : callable, optional
        Tell the worker; from any thread.
    send : callable, optional
        Has what waits sent now.
    held : callable, optional
        Why the queue sends nothing; empty while it sends.
    display : callable, optional
        How it is shown in a front end.
    listen : callable, optional
        Calls what it is given after every change, and gives back how to stop. Default: the file's
        own, as long as it is the same.
    call : callable, optional
        Puts down the call of a function: its name, arguments, schema, and whether it may run twice.
    schema : str
        Where functions are looked for.
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
        self._wake = wake or _nothing
        self._send = send or _nothing
        self._pause = pause or _nothing
        self._resume = resume or _nothing
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
        """Call ``fn()`` after every change, on any thread: it must be quick, and look again later.

        What it raises is logged once and stops nothing.

        Parameters
        ----------
        fn : callable
            Called without arguments.

        Returns
        -------
        callable
            Call it to unsubscribe.

        Raises
        ------
        TypeError
            If ``fn`` is no function.
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
        """One row an operation, in order, index its id (str).

        ``what`` it is, in a few words; ``state``: ``waiting``, ``sending``, ``parked`` (behind an earlier
        one of its row that failed or asks), ``failed`` (refused, or given up) or ``asking`` (a conflict is
        open); ``attempts`` (int64); ``why`` it failed, in the server's words, what you are to decide, or
        what it waits for; ``at`` (datetime64, UTC), when it was made; ``values``, a dict as JSON has it;
        ``session``, the notebook or script that edited it last, its process, and since when that runs.
        ``values`` is object; those without a type here are str.
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
                "session": [whose(op, sessions) for op in ops],
            },
            index=pd.Index([op.id for op in ops], name="id", dtype=object),
        ).astype({**dict.fromkeys(("what", "state", "why", "session"), "str"), "values": object})

    def _holds(self, op: Op, sessions: Mapping[str, Session]) -> str:
        """Why an operation that waits is not sent; empty: nothing keeps it but the network."""
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
        """Have the server call a function, now or once it can be reached: kept in the file first, as an
        edit is. What it returns is dropped; `Session.rpc` gives it. Calls run in their order; one that is
        refused is set aside, and holds no later one back.

        Parameters
        ----------
        function : str
            Its name.
        params : dict, optional
            Its arguments by name: what JSON can say, numpy's and pandas' values and moments too.
        schema : str, optional
            Another schema than the session's.
        repeatable : bool
            True: it may run twice, so a call whose answer was lost is sent again. If not, such a
            call is set aside as ``failed``: only you know whether it ran.

        Returns
        -------
        SendResult
            ``id`` is its row in ``df`` until the server has answered.

        Raises
        ------
        TypeError, ValueError
            If ``function`` is no text, or ``params`` is no dict or has no form in JSON.
        QueueError
            If it cannot be put down in the queue's file, or this is a file without a session.
        """
        args = arguments(function, params)
        if self._call is None:
            raise QueueError("calls are put down by a session: rt.queue.rpc(...)")
        check_text(schema, "schema")
        return self._call(function, args, schema or self._schema, repeatable)

    def retry(self, op: str | None = None) -> int:
        """Send again what failed, and send what waits of a session that ended while it was paused.

        Parameters
        ----------
        op : str, optional
            One operation, by its id (the index of ``df``). Default: all of them.

        Returns
        -------
        int
            How many.

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
        """Drop one operation, and those that stand on it: edits of a row that was never inserted.

        Parameters
        ----------
        op : str
            Its id (the index of ``df``).

        Returns
        -------
        int
            How many were dropped.

        Raises
        ------
        QueueError
            If it is not in the queue.
        """
        dropped = self.outbox.discard(op)
        if not dropped:
            raise _gone(op)
        self._wake()
        return len(dropped)

    def edit(self, op: str, **values: Any) -> None:
        """Change columns of an operation that failed, and send it again.

        Parameters
        ----------
        op : str
            Its id (the index of ``df``).
        **values
            Columns, and what they become.

        Raises
        ------
        InvalidEditError
            If a value does not fit, or the operation is about other columns.
        QueueError
            If it is not there, or has not failed.
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
        """Send nothing until `resume`, in this session; what is edited meanwhile waits.

        No other session sends it either. If this one ends before, or is killed, its edits stay in the
        queue, and the next session says so: `resume` or `retry` there sends them.
        """
        self._pause()

    def resume(self) -> None:
        """Send what waits, now and from now on; also what sessions left that ended while paused."""
        self._resume()

    def flush(self, timeout: float | None = None) -> Left:
        """Send now, and wait until nothing waits any more.

        In a notebook and in a terminal a progress bar shows how far it is, if that takes long.

        Tables then show what the server answered: its defaults, what its triggers made of a value. What it
        refused raises nothing here: it is counted in what this gives, stays in the queue and, with the value
        that was refused, in ``df``, until you `retry`, `edit` or `discard` it; ``df.why`` has the server's
        words, and the session's ``health`` is ``refused`` meanwhile.

        Parameters
        ----------
        timeout : float, optional
            Seconds.

        Returns
        -------
        Left
            How many are left, set aside: they failed, ask, were edited in another session that is (or
            ended while) paused, or are parked behind such a one. An int, with how many of them are this
            session's ``own``, and how many are of ``others``: of other scripts, or of earlier runs.

        Raises
        ------
        QueueError
            If edits wait that are not sent: the queue is paused, or the login was refused.
        WaitTimeoutError
            If something still waits after ``timeout``.
        """
        timeout = seconds(timeout)
        until = None if timeout is None else time.monotonic() + timeout
        at_first = self.outbox.counts()["waiting"]
        self.outbox.hurry()
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
        self._wake()  # what was answered this moment is in the file: have it shown, too
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
        """Everything in the queue as JSON, for a file or another program.

        Returns
        -------
        list of dict
            One an operation, in order.
        """
        return [as_json(op) for op in self.outbox.ops()]


def _harmless(fn: Callable[[], object]) -> Callable[[], None]:
    """``fn``, of which nothing that it raises reaches who edits or sends."""
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


def _nothing() -> None:
    """There is no worker to tell."""


def _gone(op: str) -> QueueError:
    return QueueError(f"operation {op} is not in the queue: it was sent, or discarded")


def as_json(op: Op) -> dict[str, Json]:
    """An operation, whole."""
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
    """JSON for people and programs; what a terminal would obey is escaped."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def _json_of(op: Op, column: str, value: Any) -> Json:
    """A user's value for a column of a failed operation."""
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
    """The arguments of a call as JSON has them.

    Raises
    ------
    TypeError, ValueError
        If ``function`` is no name, or ``params`` is no dict or has no form in JSON.
    """
    check_name(function, "function")
    if not isinstance(params, Mapping | None):
        raise TypeError(f'the params of "{function}" must be a dict, such as {{"amount": 10}}')
    found: dict[str, Any] = plain(dict(params or {}), f'function "{function}", params')
    return found
