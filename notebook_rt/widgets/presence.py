"""The presence list. Input: a ``PresenceSource``. Output: people, the user first, in stable colours.

A colour is one of ten, chosen by a hash of the person's id that is the same in every kernel and on every day;
all ten have enough contrast with white letters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zlib import crc32

from notebook_rt.widgets.base import LiveWidget, built, static_table
from notebook_rt.widgets.sources import OnViewer, Person, PresenceSource
from notebook_rt.widgets.state import StateModel, cut

FACES = 6
"""Circles shown before ``+N``."""
LISTED = 100
HUES = 10


def initials(name: str) -> str:
    """Return at most two letters: of the first and the last word that begin with a letter or a digit."""
    words = [word for word in name.replace("_", " ").replace("-", " ").split() if word[0].isalnum()]
    if not words:
        return "?"
    letters = words[0][0] + (words[-1][0] if len(words) > 1 else words[0][1:2])
    return letters.upper()


def in_order(people: Sequence[Person]) -> list[Person]:
    """Sort people: the user, then the active, then the idle; each by name."""
    return sorted(people, key=lambda p: (not p.you, p.idle, p.name.casefold(), p.id))


def presence_state(people: Sequence[Person]) -> dict[str, Any]:
    """Return what ``presence.js`` draws."""
    order = in_order(people)
    return {
        "total": len(order),
        "faces": FACES,
        "people": [
            {
                "id": person.id,
                "name": cut(person.name, 80),
                "initials": initials(person.name),
                "hue": crc32(person.id.encode()) % HUES,
                "idle": person.idle,
                "you": person.you,
                "joined": person.joined_at.isoformat() if person.joined_at else None,
            }
            for person in order[:LISTED]
        ],
    }


def presence_text(people: Sequence[Person]) -> str:
    """Return one line: the number of people, and the first names."""
    order = in_order(people)
    names = ", ".join(cut(p.name, 40) + (" (you)" if p.you else "") for p in order[:FACES])
    return f"{len(people)} here: {names}" if people else "Nobody here"


def presence_html(people: Sequence[Person]) -> str:
    """Return the static form."""
    rows = [
        (p.name + (" (you)" if p.you else ""), "idle" if p.idle else "") for p in in_order(people)
    ]
    return static_table(("who", ""), rows[:LISTED], caption=f"{len(people)} here")


class PresenceWidget(LiveWidget):
    """The people in a channel as overlapping initials, opening to their names."""

    _esm = built("presence.js")
    _css = built("presence.css")

    def __init__(self, source: PresenceSource, *, on_viewer: OnViewer | None = None) -> None:
        super().__init__(
            StateModel({"presence": lambda: presence_state(source.people())}),
            subscribe=source.on_presence,
            static=lambda: (presence_text(source.people()), presence_html(source.people())),
            on_viewer=on_viewer,
        )
