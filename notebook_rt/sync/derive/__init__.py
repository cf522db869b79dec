"""Operators over live tables: pure incremental machines over batches of row changes."""
