"""What is measured, against what: `make bench`. Ratios in one run on the same events, the peer at its best."""
