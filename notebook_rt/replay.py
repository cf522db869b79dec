"""``Replay``: the recorded past of a table, played as a live frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from notebook_rt.errors import HistoryError
from notebook_rt.frame import LiveFrame
from notebook_rt.model.times import clock_text, clock_texts, microseconds, speed_of, timestamp
from notebook_rt.runtime.replaying import ReplayFeed
from notebook_rt.sync.history.past import ForgottenMomentError

if TYPE_CHECKING:
    import pandas as pd


class Replay(LiveFrame):
    """A live frame that plays the recorded past, returned by ``History.replay``.

    Its ``status`` is ``stale``, since it does not show the server's current rows; ``reason`` and
    ``synced_at`` show the moment.
    """

    _feed: ReplayFeed

    def __init__(self, feed: ReplayFeed, session: object) -> None:
        super().__init__(feed, lambda: feed.thread.call(feed.close), session)

    @property
    def at(self) -> pd.Timestamp:
        """The moment that is shown (UTC)."""
        return timestamp(self._feed.at)

    @property
    def playing(self) -> bool:
        """Whether the replay is playing."""
        return self._feed.playing

    def pause(self) -> None:
        """Stop at the moment that is shown."""
        self._feed.thread.call(self._feed.pause)

    def play(self, speed: float | None = None) -> None:
        """Continue from the moment that is shown; restart if the replay is over.

        Parameters
        ----------
        speed : float, optional
            Recorded seconds a second from now on. Default: as before.

        Raises
        ------
        HistoryError
            If all of it has been forgotten in the meantime.
        ValueError
            If ``speed`` is not positive.
        """
        faster = None if speed is None else speed_of(speed)

        def continue_from() -> None:
            self._feed.pause()
            self._feed.speed = self._feed.speed if faster is None else faster
            self._feed.play()

        self._check()
        try:
            self._feed.thread.call(continue_from)
        except ForgottenMomentError:
            raise HistoryError("all that it plays has been forgotten meanwhile") from None

    def seek(self, time: Any) -> None:
        """Show another moment.

        Parameters
        ----------
        time : Timestamp, datetime, timedelta, str or float
            See `History`; a time before now counts from now, not from the moment that is shown.

        Raises
        ------
        HistoryError
            If it is not between the replay's start and end, or has been forgotten in the meantime.
        ValueError
            If it is not a moment.
        """
        self._check()
        feed = self._feed
        when = microseconds(time, feed.recording.now())
        if not feed.start <= when <= feed.end:
            first, last, asked = clock_texts(feed.start, feed.end, when)
            raise HistoryError(f"the replay is of {first} to {last} UTC, not of {asked}")
        try:
            moment = feed.recording.read(lambda past: past.at(when))
        except ForgottenMomentError:
            raise HistoryError(f"{clock_text(when)} UTC has been forgotten meanwhile") from None
        feed.thread.call(feed.seek, moment)
