"""Format values like Elixir's `inspect`, for the real server's error messages.

In: JSON values (and tuples). Out: text. It supports what these messages need: lists and tuples wider than a
line are broken as in the recorded messages.
"""

import json
from typing import Any

WIDTH = 80


def inspect(value: Any) -> str:
    """`%{"event" => "*", "filter" => nil}`, `["foo", "1"]`, `{"n", "eq", "1", false}`."""
    flat = _flat(value)
    if len(flat) <= WIDTH or not isinstance(value, list):
        return flat
    return "[\n  " + ",\n  ".join(_filled(item) for item in value) + "\n]"


def _flat(value: Any) -> str:
    match value:
        case None:
            return "nil"
        case bool():
            return "true" if value else "false"
        case str():
            return json.dumps(value, ensure_ascii=False)
        case dict():
            items = (f"{_flat(k)} => {_flat(v)}" for k, v in sorted(value.items()))
            return "%{" + ", ".join(items) + "}"
        case list():
            return "[" + ", ".join(map(_flat, value)) + "]"
        case tuple():
            return "{" + ", ".join(map(_flat, value)) + "}"
    return str(value)


def _filled(value: Any) -> str:
    """Format a tuple in a broken list, with as many members per line as fit."""
    if not isinstance(value, tuple) or len(_flat(value)) + 2 <= WIDTH:
        return _flat(value)
    lines, line = [], "{"
    for index, item in enumerate(value):
        text = _flat(item) + ("," if index + 1 < len(value) else "}")
        if line.strip() != "{" and 2 + len(line) + 1 + len(text) > WIDTH:
            lines.append(line)
            line = "   " + text
        else:
            line += text if line == "{" else " " + text
    return "\n".join([*lines, line])
