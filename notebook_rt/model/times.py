"""Moments and spans as a user gives them, and as they are printed; internally they are microseconds."""

from __future__ import annotations

import datetime as dt
import math
import re
from numbers import Real
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

FARTHEST: Final = 60e9
"""Seconds from the epoch to the farthest moment that is accepted; larger numbers are milliseconds."""
_CLOCK: Final = re.compile(r"\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?")
_SPAN: Final = re.compile(r"\d+(\.\d+)? ?[A-Za-z]+")


def microseconds(time: Any, now: int) -> int:
    """Return a user's moment in microseconds."""
    import pandas as pd

    if isinstance(time, bool):
        raise ValueError(f"not a moment: {time!r}")
    try:
        ago = pd.Timedelta(time) if isinstance(time, dt.timedelta | np.timedelta64) else None
        if ago is None and isinstance(time, Real):  # NumPy's numbers, too
            if math.isnan(float(time)):
                raise ValueError("it is empty")
            if not abs(float(time)) < FARTHEST:
                raise ValueError("seconds since the epoch, not milliseconds")
            return round(float(time) * 1e6)
        if isinstance(time, str) and time.strip()[:1] in ("-", "+"):
            ago = _timedelta(time)
        if ago is not None:
            return now + round(ago / pd.Timedelta(1, "us"))
        if isinstance(time, str):
            text = time.strip()
            if text in ("now", "today"):
                return now
            if _SPAN.fullmatch(text):
                raise ValueError(f'a time before now has a sign: "-{text}"')
            if _CLOCK.fullmatch(text):  # pandas would use this machine's date
                time = f"{timestamp(now):%Y-%m-%d} {text}"
        at = pd.Timestamp(time)
        if pd.isna(at):
            raise ValueError("it is empty")
        at = at.tz_localize("UTC") if at.tzinfo is None else at.tz_convert("UTC")
        return round((at.as_unit("us") - timestamp(0)) / pd.Timedelta(1, "us"))
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f'not a moment: {time!r}; such as "2026-03-01 14:03", "-10min" or a Timestamp ({error})'
        ) from None


def microseconds_of(span: Any) -> int:
    """Return a user's span in microseconds: ``"1h"``, a ``timedelta``, seconds."""
    import pandas as pd

    try:
        if isinstance(span, bool):
            raise ValueError("True and False are not time spans")
        if isinstance(span, Real) and not isinstance(span, np.timedelta64):
            found = pd.Timedelta(float(span), "s")
        else:
            found = _timedelta(span)
        microseconds = round(found / pd.Timedelta(1, "us"))
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f'not a time span: {span!r}; such as "1h" or a timedelta ({error})'
        ) from None
    if microseconds <= 0:
        raise ValueError(f"a time span must be longer than zero, not {span!r}")
    return microseconds


def _timedelta(given: Any) -> pd.Timedelta:
    import pandas as pd

    if isinstance(given, str) and given.strip().lstrip("+-").replace(".", "", 1).isdecimal():
        raise ValueError("without a unit, pandas takes nanoseconds")
    return pd.Timedelta(given)


def speed_of(given: Any) -> float:
    """Return a user's speed: recorded seconds per second."""
    try:
        found = float(given)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if isinstance(given, bool | str) or not 0 < found < math.inf:
        raise ValueError(f"speed must be a positive number, not {given!r}")
    return found


def timestamp(when: int) -> pd.Timestamp:
    import pandas as pd

    return pd.Timestamp(when, unit="us", tz="UTC").as_unit("us")


def clock_text(when: int) -> str:
    return f"{timestamp(when):%Y-%m-%d %H:%M:%S}"


def clock_texts(*moments: int) -> list[str]:
    """Return distinct texts for different moments: with microseconds if seconds are not enough."""
    short = [clock_text(one) for one in moments]
    if len({*short}) == len({*moments}):
        return short
    return [f"{timestamp(one):%Y-%m-%d %H:%M:%S.%f}" for one in moments]
