"""What is measured, against what: `make bench`. Ratios in one run on the same events, the peer at its best."""

# As the command line does: this tells the column engine's allocator how to work before the engine is loaded.
import console  # noqa: F401 - it is imported for what it does.
