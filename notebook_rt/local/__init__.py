"""The embedded stack: PostgreSQL and Supabase's interfaces on one port of this machine.

>>> from notebook_rt import local
>>> stack = local.start()  # doctest: +SKIP
>>> stack.url, stack.anon_key  # doctest: +SKIP

Importing this costs nothing: what is heavy is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from notebook_rt.local.stack import LocalStack, start

if TYPE_CHECKING:
    from notebook_rt.local.context import StackOptions

__all__ = ["LocalStack", "StackOptions", "start"]


def __getattr__(name: str) -> Any:
    if name == "StackOptions":
        from notebook_rt.local.context import StackOptions

        return StackOptions
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
