"""The durable queue of local writes, and the worker that drains it."""
