"""Sample data that moves, on a stack of its own: what ``notebook_rt.demo()`` gives.

`demo` makes the session, `market` decides what happens (pure and seeded), and `writer` is the
process that writes it. Nothing here touches a database other than the demo's own temporary one.
"""
