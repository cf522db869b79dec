"""The counters of a session for the user: by name, as a dict, as a DataFrame.

In: the numbers that ``project.py`` collects from ``sync/connection/metrics.py`` and its own parts. Out:
these numbers at one moment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


class SessionMetrics(Mapping[str, Any]):
    """The numbers of a session at one moment, by name: a mapping, as a dict is.

    ``status`` of the connection; ``messages`` received over the socket; ``bytes`` received over the
    socket and HTTP; ``requests`` over HTTP, and ``requests_this_hour``; ``unknown``, frames, events,
    statuses and keys of a newer server that were ignored; ``messages_this_hour`` delivered to the
    session (changes, broadcasts, presence: what counts toward a plan) and ``messages_a_month`` in hours
    like this
    one; ``peak_messages_per_s``, received and sent per second in the busiest 5 s of the last minute,
    and ``peak_presence_messages_per_s``, those of presence; ``sent_this_hour``, broadcasts and
    presence calls; ``bytes_in_this_hour`` and ``bytes_out_this_hour``, over the socket and HTTP;
    ``audit_share``, ``poll_share`` and ``heads_share`` (checks for lost broadcasts), the shares of
    the bytes received over HTTP this hour, from 0 to 1 (None without any); the joined ``channels``,
    and the open ``tables`` (including queries) and ``rooms`` (`Channel`);
    ``uptime_s``, total seconds connected; ``disconnects``; ``retries`` to connect; ``events``,
    changes applied, and ``events_per_s`` over the last ten seconds; ``gaps`` opened;
    ``reconciliations``; ``audits``, and ``drift``, the differing rows that they found and repaired since
    `connect`, counted once per audit, without those explained by a change in transit; ``next_audit_s``,
    seconds until the next audit of a table, and ``audited_s``, since the oldest of the tables' last audits
    (None without one);
    ``callback_errors``; ``last_error``, its text. ``latency_…_ms`` is the round trip of heartbeats
    and ``lag_…_ms`` the time from a commit until its change is applied, by the server's clock,
    each as ``avg``, ``p50``, ``p95`` and ``p99``, in milliseconds; None before the first.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def as_dict(self) -> dict[str, Any]:
        """Return all of them as a new dict."""
        return dict(self._values)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def df(self) -> pd.DataFrame:
        """One row per metric, indexed by its name, with the column ``value``."""
        import pandas as pd

        return pd.DataFrame({"value": pd.Series(self._values, dtype=object)})

    def __repr__(self) -> str:
        return f"SessionMetrics({self._values!r})"

    def _repr_html_(self) -> str:
        return str(self.df.to_html())
