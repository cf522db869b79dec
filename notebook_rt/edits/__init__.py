"""Local edits as values: what is laid over a table, merged and composed. No file, no socket."""
