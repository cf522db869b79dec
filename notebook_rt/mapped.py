"""What ``LiveFrame.map`` makes: something computed of a live table, as live as the table.

In: a live frame and the user's function. Out: its value for the present snapshot, computed once for
each; the same grid and charts as a table's. Listeners and widgets have it computed on a callback's
thread, so that a slow function delays nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from notebook_rt.frame import LiveFrame
    from notebook_rt.widgets.chart import ChartWidget
    from notebook_rt.widgets.grid import GridWidget


class MappedFrame:
    """``fn`` of a live table's DataFrame; made by ``LiveFrame.map``."""

    def __init__(self, frame: LiveFrame, fn: Callable[[pd.DataFrame], Any]) -> None:
        if not callable(fn):
            raise TypeError(f"map needs a function of a DataFrame, not {fn!r}")
        self.frame = frame
        """The live table it is computed of."""
        self._fn = fn
        self._latest: tuple[pd.DataFrame, Any] | None = None

    def __repr__(self) -> str:
        name = getattr(self._fn, "__name__", type(self._fn).__name__)
        return f"<MappedFrame {name} of {self.frame!r}>"

    @property
    def df(self) -> Any:
        """``fn(frame.df)``; the same object until the table has changed. Raises what ``fn`` raises."""
        df = self.frame.df
        latest = self._latest
        if latest is None or latest[0] is not df:
            latest = self._latest = (df, self._fn(df))
        return latest[1]

    @property
    def latest(self) -> Any:
        """The value computed last, without computing it anew; None before there is one."""
        return None if self._latest is None else self._latest[1]

    def on_change(self, fn: Callable[[Any], Any], *, at_once: bool = False) -> Callable[[], None]:
        """Call ``fn(value)`` with the new value after each batch of changes, on a thread of its own.

        Parameters
        ----------
        fn : callable
            Given the new value. What it or the function of ``map`` raises is logged once.
        at_once : bool
            Call it now, too.

        Returns
        -------
        callable
            Call it to unsubscribe.
        """
        return self.frame._listen(lambda batch: fn(self.df), fn, at_once=at_once)

    # Looking

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> Any:
        from notebook_rt.widgets import display

        return display.mapped_bundle(self)

    def grid(
        self,
        *,
        columns: str | Sequence[str] | None = None,
        formats: Mapping[str, str] | None = None,
        height: int = 360,
    ) -> GridWidget:
        """The live grid, with the options of ``LiveFrame.grid``; nothing in it can be edited."""
        from notebook_rt.widgets import display

        return display.mapped_grid(self, columns=columns, formats=formats, height=height)

    def plot(
        self, x: str | None = None, y: str | Sequence[str] = (), **options: Any
    ) -> ChartWidget:
        """A live chart, with the parameters of ``LiveFrame.plot``."""
        from notebook_rt.widgets import display

        return display.mapped_plot(self, x, y, **options)
