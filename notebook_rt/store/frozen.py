"""Lists and dicts that a user can read, copy and compare, but not change in place.

The cells of a json or array column are shared by the table and all its snapshots: a change in
place would affect all of them. Copies, pickles and ``thaw`` return plain lists and dicts.
"""

from __future__ import annotations

from typing import Any, NoReturn


def _refuse(self: object, *_: object, **__: object) -> NoReturn:
    raise TypeError(
        "a cell of a live table cannot be changed in place; copy it first (copy.deepcopy), "
        "or write with frame.edit(key, column=value)"
    )


class FrozenList(list[Any]):
    """A list that cannot be changed."""

    __slots__ = ()
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = extend = insert = pop = remove = clear = sort = reverse = _refuse

    def __reduce_ex__(self, _: object) -> tuple[Any, ...]:
        return (thaw, (list(self),))

    def __deepcopy__(self, _: object) -> list[Any]:
        return [thaw(item) for item in self]


class FrozenDict(dict[str, Any]):
    """A dict that cannot be changed."""

    __slots__ = ()
    __setitem__ = __delitem__ = __ior__ = _refuse
    pop = popitem = clear = update = setdefault = _refuse

    def __reduce_ex__(self, _: object) -> tuple[Any, ...]:
        return (thaw, (dict(self),))

    def __deepcopy__(self, _: object) -> dict[str, Any]:
        return {name: thaw(item) for name, item in self.items()}


def freeze(value: Any) -> Any:
    """Return ``value`` with every list and dict in it frozen."""
    kind = type(value)
    if kind is list:
        return FrozenList(map(freeze, value))
    if kind is dict:
        return FrozenDict({name: freeze(item) for name, item in value.items()})
    return value


def thaw(value: Any) -> Any:
    """Return ``value`` with plain lists and dicts."""
    if isinstance(value, list):
        return [thaw(item) for item in value]
    if isinstance(value, dict):
        return {name: thaw(item) for name, item in value.items()}
    return value
