"""Live sample data on a separate stack, for ``notebook_rt.demo()``.

`demo` creates the session, `market` decides what happens (pure and seeded), and `writer` is the process that
writes it. Only the demo's own temporary database is used.
"""
