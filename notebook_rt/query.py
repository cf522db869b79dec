"""``LiveQuery``: a view, a join or a function that Realtime cannot stream, kept up to date.

It is fetched again, debounced, when a table that it depends on changes. It has the face of a
``LiveFrame``: ``.df``, ``.status``, ``.version``, ``.wait``, ``.on_change``, ``.log``. When to fetch
is decided in ``sync/requery.py``. Made by ``Session.query``.
"""
