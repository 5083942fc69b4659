"""Comparison of live rows with what replay says, in key order, chunk by chunk, for ever or once."""
