"""The batches of a shadow of the store: read and folded, the next one while the last one is written.

What is folded ahead stands on rows as they are after the batch that is being written: those of accounts that were
touched lately are remembered, others are the same before and after it. That batch moves the position by
compare-and-set: where it fails, what was folded on it can never be written either, and what is remembered is forgotten.

It is made in a thread, and far behind in a process of its own, since two threads would wait for each other. The process
makes one more meanwhile, which waits until it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from consumers.shadow_process import ReadingProcess, ReadingProcessGone
from consumers.shadow_reader import Followed
from consumers.shadow_reading import Reading, Taken
from ledger.shadows import Shadow
from ledger.store import Store
from replay.rows import Beside

__all__ = ["StoreBatches"]

#: Events behind from which a process is faster: it takes about as long to start as to follow these.
PROCESS_EVENTS_MIN = 100_000


class StoreBatches:
    """Gives the batches of the store that come next for a shadow; two at most are ahead of the one that was asked for.

    Sizes of batches, `at` and `beside` as of `consumers.shadow_reading.Reading`.
    """

    def __init__(
        self,
        store: Store,
        batch_events: int,
        catch_up_events: int,
        at: Callable[[str], None],
        beside: Beside | None = None,
    ) -> None:
        self._followed = Followed(store.url, batch_events, catch_up_events, beside)
        self._at = at
        self._reading = Reading(store, batch_events, catch_up_events, at, beside)
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="shadow-ahead")
        self.ahead: Future[Taken | None] | None = None
        self.process: ReadingProcess | None = None
        self._may_start = True

    def take(self, shadow: Shadow) -> Taken | None:
        """Return the batch that comes next, None where there is none yet; PositionMoved if the shadow is not there."""
        ahead, self.ahead = self.ahead, None
        taken = self._made(shadow, None) if ahead is None else ahead.result()
        if taken is None or taken.head <= taken.position:
            self._end_process()
            self._may_start = True
        return taken

    def begin_next(self, shadow: Shadow, taken: Taken) -> None:
        """Begin with the batch after one that is about to be written, if it is known that there is more."""
        if taken.head > taken.position:
            if self._may_start and self.process is None and taken.head - taken.position >= PROCESS_EVENTS_MIN:
                self._start_process()
            self.ahead = self._worker.submit(self._made, shadow, taken)

    def forget(self) -> None:
        """Forget what was made ahead, once it is made, and what is known of rows."""
        ahead, self.ahead = self.ahead, None
        if ahead is not None:
            # What went wrong there, if anything, concerns nobody any more: it is asked again.
            ahead.exception()
        self._reading.forget()

    def close(self) -> None:
        """End the thread and the process."""
        self.forget()
        self._worker.shutdown()
        self._end_process()

    def _made(self, shadow: Shadow, before: Taken | None) -> Taken | None:
        """Make the batch after `before` in the process, or here where there is none, or none any more."""
        if self.process is not None:
            try:
                if self.process.is_ready():
                    self._reading.forget()
                    return self.process.made(shadow, before)
            except ReadingProcessGone:
                # Whatever ended it, if it was not a hand, comes up here too. One that cannot live is not started anew
                # for each batch, but when the shadow has caught up and is behind again.
                self._end_process()
                self._may_start = False
            except BaseException:
                self._end_process()
                raise
        return self._reading.made(shadow, before)

    def _start_process(self) -> None:
        try:
            self.process = ReadingProcess(self._followed, self._at)
        except OSError:
            # No memory or no number for another process is no reason to stop: batches are made here, if slower.
            self._may_start = False

    def _end_process(self) -> None:
        if self.process is not None:
            self.process.close()
            self.process = None
