"""``LiveTable``: a live frame whose rows can be written (promises, edits).

An edit goes to the table's `Editor`, which checks it, stores it in the queue's file and
shows it. Reading the pending edits does not create a file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast, overload

from notebook_rt.edits.at import At
from notebook_rt.edits.editor import Editor
from notebook_rt.edits.listing import conflicts_df, pending_df
from notebook_rt.edits.ops import Right
from notebook_rt.edits.report import WriteReport
from notebook_rt.edits.shown import Shown
from notebook_rt.errors import QueueError, UnreachableError
from notebook_rt.frame import LiveFrame
from notebook_rt.hints import known_keywords
from notebook_rt.model.plain import duration
from notebook_rt.model.spec import parse_names
from notebook_rt.model.types import Column
from notebook_rt.runtime.callbacks import Mailbox
from notebook_rt.runtime.feed import Feed, Verdict
from notebook_rt.runtime.following import note

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from notebook_rt.history import History
    from notebook_rt.runtime.changes import ChangeBatch
    from notebook_rt.runtime.recording import Recording
    from notebook_rt.runtime.table import TableDriver
    from notebook_rt.store.order import Ordered
    from notebook_rt.store.table import Table
    from notebook_rt.widgets.grid import GridWidget


T = TypeVar("T")

HOW_TO_EDIT = (
    "rows are edited by .edit(key, column=value), .at[key, column] = value or .edit_many(DataFrame)"
)


def _row(method: str, values: object, columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of one row, given as a dict and by name."""
    if values is None or isinstance(values, Mapping):
        return {**(values or {}), **columns}
    how = ""
    if hasattr(values, "to_dict") and getattr(values, "ndim", 0) == 1:
        how = ": pass its .to_dict()"
    raise TypeError(
        f"{method} takes the columns of one row, by name or as a dict; not {type(values).__name__}{how}"
    )


def _many(given: object) -> bool:
    """Return whether these are several rows. A Series raises an error that explains how to pass rows."""
    one = isinstance(given, (str, bytes, Mapping)) or (
        hasattr(given, "to_dict") and getattr(given, "ndim", 0) == 1
    )
    return isinstance(given, Iterable) and not one


class Edits(Protocol):
    """The writing side of one table (``runtime/table_edits.py``)."""

    def open(self, right: Right | None = None, columns: Collection[str] = ()) -> Editor:
        """Return the editor of the table, which knows its columns even if no row has named them yet. Creates
        the queue's file if it does not exist.

        Raises if the login has no grant for ``right``, where the project reports its grants.
        """

    def known(self) -> Editor | None:
        """Return the editor of the table, if there is a queue."""

    def granted(self, right: Right) -> bool:
        """Return whether the login has the grant, as far as is known. Never waits."""

    def insert(self, values: Mapping[str, Any]) -> Hashable:
        """Insert a row and return its key. Missing key columns are generated or drawn from their sequence."""

    def write_many(
        self, data: object, *, upsert: bool = False, on: Sequence[str] = ()
    ) -> WriteReport:
        """Insert or upsert rows. Missing key columns are generated or drawn from their sequence."""

    def fills(self, column: Column) -> bool:
        """Return whether a new row may omit this key column, as far as is known."""

    def on_merge(self, fn: Callable[[Sequence[Mapping[str, Any]]], None]) -> Callable[[], None]: ...

    def columns_suspect(self) -> None:
        """Load the columns again, because a value was refused by what is known of them."""


class LiveTable(LiveFrame):
    """A table of the project as a pandas DataFrame that keeps itself up to date and can be edited.

    Returned by ``Session.table``. An edit is shown at once, stored in the queue's file, written to the
    server, and merged with the changes of other clients.
    """

    editable = True
    _how_to_edit = HOW_TO_EDIT

    def __init__(
        self,
        feed: Feed,
        release: Callable[[], None],
        session: object,
        edits: Edits,
        debounce: float = 0.0,
    ) -> None:
        super().__init__(feed, release, session, debounce)
        self._edits = edits
        self._shown = Shown()
        """The rows that this handle has shown: its edits are based on them."""

    # The past

    def history(
        self, span: Any = "1h", *, most_bytes: int = 256 << 20, on_disk: bool = False
    ) -> History:
        """Record the table's past from now on: the changes and their commit times.

        Waits for the first data and, if the table was just opened, until its changes are
        followed: a few tenths of a second, at most 5 s. A table has one history: calling this again
        returns it, with the new bounds.

        Parameters
        ----------
        span : str, timedelta or float
            The time span to keep: ``"1h"``, ``"30min"``, seconds. Older changes may be forgotten.
        most_bytes : int
            Maximum memory; the oldest changes are forgotten first. Default: 256 MB. The same limit applies
            to the disk.
        on_disk : bool
            Whether to store the history on disk, too, and to start with the history that an earlier kernel
            stored for this project, login and table; the time in between is a gap. Only one kernel writes;
            another one reports that and records in memory. ``sign_out`` and ``notebook-rt cache clear``
            remove it. The setting applies until the history is closed.

        Returns
        -------
        History
            With ``as_of``, ``diff``, ``changes_df``, ``of``, ``replay`` and ``to_parquet``. Recording ends
            when it or the table is closed.

        Raises
        ------
        ValueError
            If ``span`` is not a time span, or ``most_bytes`` is not above 0.
        TypeError
            If ``on_disk`` is neither True nor False.
        NotebookRTError
            As raised by ``wait``.

        Examples
        --------
        >>> past = prices.history("1h")  # doctest: +SKIP
        >>> past.as_of("-10min")  # ten minutes later  # doctest: +SKIP
        """
        from notebook_rt.history import History
        from notebook_rt.model.times import microseconds_of

        microseconds = microseconds_of(span)
        if not isinstance(on_disk, bool):
            raise TypeError(f"on_disk must be True or False, not {on_disk!r}")
        if isinstance(most_bytes, bool) or not (isinstance(most_bytes, Real) and most_bytes > 0):
            raise ValueError(f"most_bytes must be a number of bytes above 0, not {most_bytes!r}")
        self.wait()
        driver = cast("TableDriver", self._feed)
        driver.thread.wait(driver.arrived())
        recording = driver.thread.call(driver.record, microseconds, most_bytes, on_disk)
        if recording.archiving is not None:
            driver.thread.wait(recording.archiving.attached())
        return History(self, driver, recording)

    @property
    def _recording(self) -> Recording | None:
        """The recording of the table's past, or None."""
        return cast("TableDriver", self._feed).recording

    # Reading

    def _show(self, read: Callable[[Table | Ordered], T], unmarked: Callable[[], T | None]) -> T:
        value, mark = self._read(lambda: self._feed.shown(read))
        self._shown.whole(mark)
        return value

    def get(self, key: Hashable) -> dict[str, Any] | None:
        """Return the row with this key as a dict, or None. Cheaper than ``df.loc``; does not wait.

        Later edits through this handle are based on the returned row.

        Parameters
        ----------
        key : hashable
            As in the index of ``df``, or in any form that `edit` accepts: a date or its text, a
            ``uuid.UUID``, a numpy scalar; a tuple for a composite key.

        Returns
        -------
        dict or None
            Columns to typed values, including the key. None if ``df`` shows no such row.
        """
        found = self._find(key)
        if found is None:
            return None
        self._shown.row(*found)
        return found[1]

    @property
    def _listener(self) -> Callable[[ChangeBatch], object]:
        return self._shown.changes

    @known_keywords
    def grid(
        self,
        *,
        columns: str | Sequence[str] | None = None,
        formats: Mapping[str, str] | None = None,
        height: int = 360,
        style: Mapping[str, str | Mapping[Any, str]] | None = None,
        totals: Mapping[str, str] | str | Sequence[str] | None = None,
        group: str = "",
        title: str = "",
        editable: bool | str | Sequence[str] = True,
        by: str | None = None,
    ) -> GridWidget:
        """Return the live grid, with options. For a table with a `history` it has a time slider.

        Parameters
        ----------
        columns : str or sequence of str, optional
            The columns to show, in this order. Default: all, key columns first.
        formats : dict of str, optional
            Column to number format: ``",.2f"``, ``".1%"``, ``",d"``.
        height : int
            Maximum height in pixels; a few rows take less.
        style : dict, optional
            Column to the style of its cells: ``"bar"`` (a bar as long as the number), ``"color"`` (a color as
            strong as the number; for text, one color per value), ``"updown"`` (above and below zero), or a
            dict of values to ``"blue"``, ``"green"``, ``"grey"``, ``"red"`` or ``"yellow"``.
        totals : dict, str or sequence of str, optional
            Column to ``"sum"``, ``"mean"``, ``"median"``, ``"min"``, ``"max"`` or ``"count"`` of the
            shown rows, in a line below them; columns without a function are summed.
        group : str, optional
            Column to group by. Each value has a heading that opens and closes its rows, with their count and
            ``totals``.
        title : str, optional
            Plain text shown above the grid. Default: the name.
        editable : bool, str or sequence of str
            The columns that can be edited in place. True: all except the key; rows can also be added and
            deleted.
        by : str, optional
            The column that records who wrote a row, for the history of a cell in the menu.
            Default: ``updated_by``, ``modified_by``, ``changed_by``, ``edited_by`` or
            ``last_modified_by``, if there is one.

        Returns
        -------
        GridWidget
            The widget.

        Raises
        ------
        TypeError
            If the title is not a string, or the height is not a number of pixels.
        ValueError
            If a column does not exist, or a format, a style or a total is invalid.
        UnreachableError
            If a named column is not known yet, because the table has no row, and the server does not answer.
        """
        from notebook_rt.widgets import display

        self._feed.touch()
        named = (() if isinstance(one, bool) else parse_names(one) for one in (columns, editable))
        summed = (totals,) if isinstance(totals, str) else totals or ()
        asked = {*chain.from_iterable(names or () for names in named), *(formats or ())}
        asked |= {*(style or ()), *summed, *(name for name in (group, by) if name)}
        if asked:
            self._edits.open(columns=asked)
        return display.grid(
            self,
            columns=columns,
            formats=formats,
            height=height,
            editable=editable,
            style=style,
            totals=totals,
            group=group,
            title=title,
            by=by,
        )

    def _ask_for(self, columns: Sequence[str]) -> None:
        if columns and self._feed.why_undeclared:
            with suppress(UnreachableError):
                self._edits.open(columns=columns)
                schema = self.schema
                for name in columns:
                    if schema is not None and name not in schema.types:
                        raise ValueError(f'"{self.name}" has no column "{name}"')

    # Editing

    def edit(
        self,
        key: Hashable,
        values: Mapping[str, Any] | None = None,
        /,
        *,
        base: Mapping[str, Any] | pd.Series[Any] | pd.DataFrame | None = None,
        **columns: Any,
    ) -> None:
        """Change columns of a row. The edit is shown at once, queued, written and merged.

        Changes that other clients make in the meantime are detected relative to the base of the edit: the row
        ``base``, else the value of each cell that this handle last showed (by ``df``, ``get``, ``at``,
        ``to_arrow``, ``changes``, or an edit; separately for each thread), else the current value. asyncio
        tasks of one thread share the values last shown: a task that awaits between a read and its edit
        should pass ``base=row``. A value that equals the base changes nothing. A value may also be a
        function of the old value, such as ``lambda n: n - 1``: it is called once, in this thread.

        Parameters
        ----------
        key : hashable
            The row's key; a tuple for a composite key.
        values : dict, optional
            Columns to new values, for columns whose names are not identifiers, or are ``base``.
        base : dict, Series or DataFrame, optional
            The row that the values were computed from, if it is not the row last shown: the result of
            ``get``, ``df.loc[key]``, or a DataFrame of one row. It must have the edited columns.
        **columns
            Columns to new values, or to functions of the old value.

        Raises
        ------
        TypeError
            If ``values`` is not a dict.
        PermissionDeniedError
            If the login has no grant for it and the project has the SQL of ``notebook-rt doctor --sql``;
            without that SQL, the server refuses the edit later, and the queue has the reason.
        InvalidEditError
            If the row or a column does not exist, a value does not fit the column's type, or ``base`` is
            another row; or if the row last shown is no longer known, because more than 100,000 rows have
            changed or were shown one by one: read the row again, or pass ``base``.
        QueueError
            If it could not be stored in the queue's file; it is not shown then.
        NotebookRTError
            As raised by ``wait``: the first edit waits for the first data. An exception of your function is
            raised, and nothing is changed.

        Examples
        --------
        >>> positions.edit(7, notes="checked")  # doctest: +SKIP
        >>> held.edit(("ada", "AAPL"), {"last price": 251.0})  # doctest: +SKIP
        >>> positions.edit(7, stock=lambda n: n - 1)  # doctest: +SKIP
        >>> row = positions.get(7)  # doctest: +SKIP
        >>> positions.edit(7, tags=[*row["tags"], "mine"], base=row)  # doctest: +SKIP
        """
        wanted = _row("edit", values, columns)
        self._changing(wanted).edit(key, wanted, self._shown, base)

    def _edit_shown(
        self, key: Hashable, values: Mapping[str, Any], shown: Mapping[str, Any]
    ) -> None:
        """Change columns of a row, based on the values that a grid has ``shown`` or the current ones."""
        self._changing(values).edit(key, values, base=shown or None)

    @overload
    def insert(self, rows: Mapping[str, Any] | None = None, /, **columns: Any) -> Hashable: ...

    @overload
    def insert(self, rows: pd.DataFrame | Iterable[Mapping[str, Any]], /) -> WriteReport: ...

    def insert(
        self,
        rows: Mapping[str, Any] | pd.DataFrame | Iterable[Mapping[str, Any]] | None = None,
        /,
        **columns: Any,
    ) -> Hashable | WriteReport:
        """Insert a row and return its key; or insert many rows and return a report.

        Many rows are checked before any is queued: if a cell is invalid, the error names its row and
        column (the first few), and no row is queued. The server refuses single rows: the other rows are
        written, and the report lists the refused rows with the reasons. The rows are sent in few requests,
        in their order.

        A missing key is generated locally if its type is uuid, and drawn from its sequence if it is an
        integer and the project has the SQL of ``notebook-rt doctor --sql``, which sometimes needs a request
        to the server. Without that SQL the server creates the integer key when it inserts the row: the call
        waits for the answer, and cannot be made offline or in a `batch`. If the answer is lost, the row is
        not sent again automatically, so that it is never inserted twice.

        If another client inserts a row with the same key in the meantime, that row is not overwritten: it is
        an open conflict of the whole row (`resolve`), unless ``merge=`` is ``"server"`` or ``"local"``.

        Parameters
        ----------
        rows : dict, DataFrame or iterable of dict, optional
            Columns to values of one row (for columns whose names are not identifiers), or of many rows. The
            named index of a DataFrame is columns, an unnamed one is ignored; NaN, NaT and NA mean null.
        **columns
            Columns to values of one row; omitted columns get the server's defaults.

        Returns
        -------
        hashable or WriteReport
            For one row, its key, as `get` and `edit` accept it and changes contain it: a date is a
            ``datetime.date``, while ``df.loc`` needs a Timestamp. For many rows, the report.

        Raises
        ------
        TypeError
            If ``rows`` has another type.
        InvalidEditError
            If a row with this key exists already or the key occurs twice, the key is missing and can be
            neither generated nor drawn now, a column does not exist, a value does not fit, or the server
            refuses a row whose key it was to create.
        AnswerLostError
            If the server was to create the key and its answer was lost: the row may have been inserted.
        QueueError, NotebookRTError
            As raised by `edit`.

        Examples
        --------
        >>> positions.insert(symbol="AAPL", size=3)  # doctest: +SKIP
        >>> positions.insert(pd.read_csv("new.csv"))  # doctest: +SKIP
        """
        if _many(rows) and not columns:
            return self._loaded().write_many(rows)
        return self._loaded().insert(_row("insert", rows, columns))

    def upsert(
        self,
        rows: Mapping[str, Any] | pd.DataFrame | Iterable[Mapping[str, Any]],
        /,
        *,
        on: str | Sequence[str] | None = None,
    ) -> WriteReport:
        """Insert rows, or set the columns of rows that exist already.

        Like an upsert in SQL, it overwrites the changes that other clients made to these columns in the
        meantime, without a merge; `edit_many` merges. Columns that are not given keep their values, and a row
        that equals the shown row is not sent.

        All rows are checked before any is queued, and the server refuses single rows, as in `insert`.

        Parameters
        ----------
        rows : dict, DataFrame or iterable of dict
            One row or many rows with their keys, as columns or as the named index of a DataFrame. NaN, NaT
            and NA in a DataFrame mean null. A row whose key is null is inserted, as by `insert`.
        on : str or sequence of str, optional
            Columns of a unique constraint that identify a row instead of the key, among the shown rows.
            Default: the key.

        Returns
        -------
        WriteReport
            The outcome for each row.

        Raises
        ------
        TypeError
            If ``rows`` has another type.
        InvalidEditError
            If the key is not among the columns or occurs twice, a column does not exist, a value does not
            fit, or two shown rows have the same ``on``.
        QueueError, NotebookRTError
            As raised by `edit`.

        Examples
        --------
        >>> report = positions.upsert(df)  # doctest: +SKIP
        >>> users.upsert([{"email": "ada@x.org", "name": "Ada"}], on="email")  # doctest: +SKIP
        """
        if isinstance(rows, Mapping):
            rows = [rows]
        return self._loaded().write_many(rows, upsert=True, on=parse_names(on) or ())

    @overload
    def delete(
        self,
        key: list[Any] | pd.Index | pd.Series[Any] | pd.DataFrame | np.ndarray,
        *,
        after: float = 0.0,
    ) -> WriteReport: ...

    @overload
    def delete(self, key: Hashable, *, after: float = 0.0) -> None: ...

    def delete(
        self,
        key: Hashable | list[Any] | pd.Index | pd.Series[Any] | pd.DataFrame | np.ndarray,
        *,
        after: float = 0.0,
    ) -> WriteReport | None:
        """Delete one row, or many rows by their keys.

        Parameters
        ----------
        key : hashable, list, Index, Series, array or DataFrame
            The row's key; a tuple for a composite key. For many rows: a list, an Index, a Series or an array
            of keys, or a DataFrame with the keys as its index or among its columns.
        after : float
            Seconds that the delete waits in the queue before it is sent; `undo` can revert it until then.

        Returns
        -------
        WriteReport or None
            For many rows, the outcome for each.

        Raises
        ------
        InvalidEditError
            If a row does not exist; no row is deleted then.
        TypeError, ValueError
            If ``after`` is not a number, negative or infinite.
        QueueError, NotebookRTError
            As raised by `edit`.
        """
        after = duration(after, "after")
        editor = self._loaded().open("delete")
        if isinstance(key, Hashable):
            editor.delete(key, after)
            return None
        return editor.delete_many(key, after)

    def edit_many(
        self,
        changes: pd.DataFrame | pd.Series[Any],
        *,
        base: pd.DataFrame | pd.Series[Any] | None = None,
    ) -> WriteReport:
        """Change many rows: the index is the key, the columns are the columns to set.

        If the index has no name and the key is among the columns, as in a file that was just read, the key is
        taken from there. NaN, NaT and NA mean null. If a value is invalid, no row is queued.

        Each row is written conditionally on its base, and merged with the changes of other clients, as by
        `edit`. The server refuses single rows: the others are written. With the SQL of ``notebook-rt doctor
        --sql``, a few hundred rows are one request.

        Parameters
        ----------
        changes : DataFrame or Series
            A Series is one column, with its name.
        base : DataFrame or Series, optional
            The rows that the changes were computed from, if they are not the rows last shown (see `edit`),
            such as an earlier ``df``. It must have the changed rows and columns.

        Returns
        -------
        WriteReport
            The outcome for each row; ``changed`` is the number of rows changed.

        Raises
        ------
        TypeError
            If ``changes`` is neither a DataFrame nor a Series.
        InvalidEditError
            If a row or a column does not exist or occurs twice, or a value does not fit: the error names
            the rows and columns. Also if ``base`` lacks a changed row or column, or the rows last shown are
            no longer known.
        QueueError, NotebookRTError
            As raised by `edit`.
        """
        named = getattr(changes, "columns", ())
        return self._changing(named).edit_many(changes, self._shown, base)

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Store and show the edits of the block as one; discard all of them if the block raises.

        The edits are written in their order. This is not a transaction on the server: an edit that the server
        refuses is set aside, and the others are written. For all or nothing, call a function of your own
        (`Session.rpc`).

        The block contains only the edits of this thread. A nested block is a part of the outer one, and
        discards only its own edits if it raises. The same applies to blocks of several tables:
        ``with orders.batch(), items.batch():`` keeps an order before the items that refer to it.
        """
        with self._loaded().open().batch():
            yield

    @property
    def at(self) -> At:
        """``frame.at[key, column] = value`` is ``frame.edit(key, column=value)``; see `At`."""
        note(self)
        return At(self._loaded().open(), self._shown, self._edits.open)

    def undo(self) -> bool:
        """Revert the last edit (or batch) of this table that has not been sent, or that the server refused.

        In a ``batch`` block, this is the last edit of the block. An edit that was sent but not answered may
        have been written and is not reverted: `discard` drops it.

        Returns
        -------
        bool
            Whether an edit was reverted.
        """
        editor = self._known()
        return editor is not None and editor.undo(self._shown)

    def verify(self, timeout: float | None = None) -> Verdict:
        """Compare with the server now, as `LiveFrame.verify` does.

        Parameters
        ----------
        timeout : float, optional
            Seconds.

        Returns
        -------
        Verdict
            The number of rows compared and different; ``unwritten`` has the keys of rows that ``df`` shows
            with edits of yours that are pending, refused or in conflict.

        Raises
        ------
        NotebookRTError
            As raised by `LiveFrame.verify`.
        """
        found = super().verify(timeout)
        editor = self._edits.known()
        return found if editor is None else replace(found, unwritten=editor.unwritten())

    @property
    def reason(self) -> str:
        """The reason for the status, as `LiveFrame.reason`; also the edits that ``df`` shows although they
        were refused or wait for your decision.
        """
        return "; ".join(one for one in (super().reason, self._open_conflicts_text()) if one)

    def _open_conflicts_text(self) -> str:
        """Return a text about the edits that need a decision; empty if there are none."""
        editor = self._edits.known()
        if editor is None or self._closed:
            return ""
        with contextlib.suppress(QueueError):  # the file is damaged: an edit raises
            number = len(editor.open_conflicts())
            open_ones = f"{number} conflict{'s' * (number != 1)} to resolve, see .conflicts"
            return "; ".join(filter(None, (editor.refused(), open_ones if number else "")))
        return ""

    def _status_detail(self) -> str:
        return super()._status_detail() or self._open_conflicts_text()

    @property
    def pending(self) -> pd.DataFrame:
        """The edits of this table that are not written yet, in order: one row per edit, indexed by its id.

        Columns: ``kind`` (``insert``, ``upsert``, ``update``, ``delete``), ``key``, ``values`` and their
        ``base`` (dicts of JSON values), ``state`` and ``attempts`` as in ``Session.queue.df``, ``error`` (the
        server's message), and ``at`` (datetime64, UTC), the time of the edit.
        """
        editor = self._known()
        return pending_df([]) if editor is None else editor.pending

    @property
    def conflicts(self) -> pd.DataFrame:
        """Every merge decision, oldest first, and the conflicts that wait for yours: one row each.

        Columns: ``at`` (datetime64, UTC), ``key``, ``column`` (None: the whole row, which one side deleted or
        both inserted), ``base``, ``mine``, ``theirs`` and ``result`` (JSON values), ``rule`` (the strategy,
        or how it was resolved), ``who`` (the other user, if the row has a column ``updated_by``), and
        ``open`` (bool): the conflict waits for `resolve`.
        """
        editor = self._known()
        return conflicts_df([]) if editor is None else editor.conflicts

    def marks(self) -> dict[tuple[Hashable, str], tuple[str, str]]:
        """Return edited cells: ``(key, column)`` to ``("pending" | "failed" | "conflict", why)``.

        Of a deleted row, it contains all cells.

        Returns
        -------
        dict
            Tuples of key and column to tuples of state and reason.
        """
        editor = self._known()
        return {} if editor is None or editor.overlay is None else editor.marks()

    def leaving(self) -> dict[Hashable, Mapping[str, Any]]:
        """Return rows that ``df`` no longer shows although their deletion is not final.

        They were deleted here and the delete is not written yet; or another client deleted them, and edits of
        yours wait for a decision.

        Returns
        -------
        dict
            Keys to rows of typed values.
        """
        editor = self._known()
        return {} if editor is None else dict(editor.leaving())

    def resolve(
        self,
        key: Hashable,
        column: str | None = None,
        choice: Literal["mine", "theirs"] = "mine",
        *,
        value: Any = ...,
    ) -> None:
        """Decide an open conflict.

        Parameters
        ----------
        key : hashable
            The row's key.
        column : str, optional
            One column. Default: all open conflicts of the row.
        choice : {"mine", "theirs"}
            The value to keep.
        value : object, optional
            Another value instead, for one column; None is null.

        Raises
        ------
        ConflictError
            If there is no open conflict.
        ValueError
            If ``choice`` is invalid, or a value is given without a column.
        InvalidEditError
            If the value does not fit the column's type, or ``key`` is not a key.
        QueueError, NotebookRTError
            As raised by `edit`.
        """
        editor = self._loaded().open()
        editor.resolve(key, column, choice, value=value)
        row = editor.row(key)
        if row is not None:  # the caller has seen the values
            shown = row if column is None else {column: row[column]}
            self._shown.cells(editor.key(key), shown)

    def discard(self, key: Hashable) -> int:
        """Drop the pending and refused edits of a row; the server's row is shown again.

        Parameters
        ----------
        key : hashable
            The row's key; a tuple for a composite key.

        Returns
        -------
        int
            The number of edits dropped.

        Raises
        ------
        InvalidEditError
            If ``key`` is not a key.
        """
        editor = self._known()
        return 0 if editor is None else editor.discard(key, self._shown)

    def on_merge(self, fn: Callable[[Sequence[Mapping[str, Any]]], Any]) -> Callable[[], None]:
        """Call ``fn(records)`` after each merge of your edits with changes of other clients, on a separate
        thread. The records have the fields of `conflicts`.

        Parameters
        ----------
        fn : callable
            Called with the records, a sequence of dicts.

        Returns
        -------
        callable
            A function that unsubscribes ``fn``.

        Raises
        ------
        TypeError
            If ``fn`` is not a function.
        """
        edits = self._writable()
        box = Mailbox(fn, what=f"{self._feed.name}.on_merge", counted=self._feed.counters)
        box.holds = self
        stop = edits.on_merge(box.put)

        def remove() -> None:
            box.close()
            stop()

        return self._feed.subscribers.add(fn, remove, self._removers)

    def _writable(self) -> Edits:
        self._check()
        return self._edits

    def _loaded(self) -> Edits:
        edits = self._writable()
        self._check_error()
        if self._feed.table is None:
            self.wait()
        return edits

    def _changing(self, columns: Collection[str]) -> Editor:
        """Return the table's editor if the login may change these columns, as far as is known."""
        return self._loaded().open("update", columns)

    def _known(self) -> Editor | None:
        return self._writable().known()
