"""The embedded stack: PostgreSQL and Supabase's interfaces on one port of this machine.

>>> from notebook_rt import local
>>> stack = local.start()  # doctest: +SKIP
>>> stack.url, stack.anon_key  # doctest: +SKIP

Importing this package is cheap: heavy modules are imported on first use.
"""

from __future__ import annotations

from notebook_rt.local.context import StackOptions
from notebook_rt.local.stack import LocalStack, start

__all__ = ["LocalStack", "StackOptions", "start"]


def __dir__() -> list[str]:
    return __all__
