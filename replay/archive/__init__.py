"""A Delta Lake table of the same events: appended exactly once, checked by hash, folded at the speed of the machine.

`table` is what is there and how a commit is made, `files` the data files and their hashes, `schema` the columns;
`appending` puts a source's events in, `compaction` sorts them by account, `full_replay` folds them.
`opening` opens it; `answers`, `rebuild` and `exporting` are what people ask of it, `checking` and `vacuuming` how it is
kept, `causes` what is said when that fails.
"""
