"""Names and words of other people's, as they may stand in SQL, in a message and on a terminal."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Collection


def identifier(name: str) -> str:
    """``name`` as SQL wants it: quoted where it is not a plain lower-case word.

    >>> print(identifier("positions"), identifier('My "own" table'))
    positions "My ""own"" table"
    """
    letters = name.isascii() and name.replace("_", "a").isalnum() and name == name.lower()
    if letters and not name[0].isdigit():
        return name
    return '"' + name.replace('"', '""') + '"'


def did_you_mean(name: object, names: Collection[str]) -> str:
    """The one of ``names`` that is most like ``name``, as a question; empty: it is like none of them.

    >>> print(did_you_mean("Pric", ["id", "price"]) + did_you_mean("x", ["id"]))
     (did you mean 'price'?)
    """
    folded = {one.casefold(): one for one in names}
    found = difflib.get_close_matches(str(name).casefold(), folded, 1)
    return f" (did you mean {folded[found[0]]!r}?)" if found else ""


def qualified(schema: str, table: str) -> str:
    """``schema.table``, each quoted where needed."""
    return f"{identifier(schema)}.{identifier(table)}"


def do_block(text: str) -> str:
    """PL/pgSQL as one statement, which happens whole or not at all wherever it is pasted.

    >>> print(do_block("perform 1;"))
    do $mend$ begin perform 1; end $mend$
    """
    quote = "$mend$"
    while quote in text:
        quote = quote[:-1] + "_$"
    return f"do {quote} begin {text} end {quote}"


def literal(text: str) -> str:
    """``text`` as a string of SQL.

    >>> print(literal("it's"))
    'it''s'
    """
    return "'" + text.replace("'", "''") + "'"


def printable(text: str, *, lines: bool = False) -> str:
    """``text`` of somebody else's without what a terminal would obey.

    Control characters, the beginnings of escape sequences, marks that turn the direction of writing
    and halves of surrogate pairs become U+FFFD; line breaks, too, unless ``lines``.

    >>> printable("a\\x1b[2Jb\\u202ec")
    'a�[2Jb�c'
    """
    if text.isprintable():
        return text
    return "".join(c if _is_harmless(c, lines) else "\N{REPLACEMENT CHARACTER}" for c in text)


def _is_harmless(c: str, lines: bool) -> bool:
    # Spaces of every width, and the joiners that emoji and some scripts are written with.
    return (
        c.isprintable()
        or unicodedata.category(c) == "Zs"
        or c in "\u200c\u200d"
        or (lines and c in "\n\t")
    )
