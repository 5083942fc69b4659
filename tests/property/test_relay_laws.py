"""Whatever happens to a store and its relays, a topic has each account's events in order, and COMPLETE means all.

The topic is a list here: a broker cannot be made to crash a relay between any two events a thousand times.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path

import polars as pl
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from ledgers import change_event, put_back, take_event
from relays import Crash, Log
from samples import opened, recorded

from consumers.relay import Published, Relay
from ledger import GENESIS, Store, chain, topics
from schemas import encode
from schemas.errors import PositionMoved

NAME = "topic"
ACCOUNTS = ("a", "b")
MEANWHILE = st.sampled_from([[], ["retry"], ["restore", "retry"], ["publish"], ["restore", "publish"]])


class RelayMachine(RuleBasedStateMachine):
    """A store that is written, damaged and repaired, and relays that are killed and meet each other."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = Store.at(Path(self.folder.name))
        self.log = Log()
        self.streams: dict[str, list[bytes]] = {}
        self.chains: dict[str, bytes] = {}
        self.taken: list[tuple[str, int, dict]] = []
        self.damaged: dict[tuple[str, int], bytes] = {}
        #: Whether anything has happened after which an event may be on the topic twice.
        self.may_repeat = False

    def teardown(self) -> None:
        """Remove the store."""
        self.store.close()
        self.folder.cleanup()

    @initialize()
    def know_topic(self) -> None:
        """Vouch for the topic, as the command does before it sends."""
        with self.store.writing() as connection:
            topics.vouch(connection, NAME, "id", 1, {})
        self._append([*ACCOUNTS, *ACCOUNTS])

    @rule(
        data=st.data(), kinds=st.lists(st.sampled_from(["append", "lose", "restore", "damage", "repair"]), max_size=6)
    )
    def happen(self, data: st.DataObject, kinds: list[str]) -> None:
        """Append, lose, put back, damage and repair events, one after the other."""
        for kind in kinds:
            if kind == "append":
                self._append(data.draw(st.lists(st.sampled_from(ACCOUNTS), min_size=1, max_size=5)))
            elif kind == "restore" and self.taken:
                put_back(self.store, self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1)))[2])
            elif kind == "repair":
                self._repair()
            elif kind in {"lose", "damage"} and (present := self._present()):
                {"lose": self._lose, "damage": self._damage}[kind](*data.draw(st.sampled_from(present)))

    def _append(self, accounts: list[str]) -> None:
        """Append events, whatever the accounts have lost."""
        rows = []
        for account_id in accounts:
            stream = self.streams.setdefault(account_id, [])
            version = len(stream) + 1
            event = opened(account_id) if version == 1 else recorded(account_id, version)
            state = encode(event)
            link = self.chains[account_id] = chain(self.chains.get(account_id, GENESIS), state)
            stream.append(state)
            rows.append((account_id, version, str(type(event).__struct_config__.tag), state, link))
        columns = {"account_id": pl.String, "version": pl.Int64, "topic": pl.String}
        frame = pl.DataFrame(rows, schema=columns | {"state": pl.Binary, "chain": pl.Binary}, orient="row")
        with self.store.appending() as connection:
            self.store.append_rows(connection, frame)

    def _present(self) -> list[tuple[str, int]]:
        gone = {(account_id, version) for account_id, version, _ in self.taken}
        keys = [(name, number + 1) for name, stream in self.streams.items() for number in range(len(stream))]
        return sorted(set(keys) - gone)

    def _lose(self, account_id: str, version: int) -> None:
        self.may_repeat = True
        self.taken.append((account_id, version, take_event(self.store, account_id, version)))

    def _damage(self, account_id: str, version: int) -> None:
        self.damaged[account_id, version] = self.streams[account_id][version - 1]
        # Something that cannot be read, or an event of another amount.
        forged = encode(recorded(account_id, version, 999)) if version % 2 else b"{}"
        change_event(self.store, account_id, version, state=forged)

    def _repair(self) -> None:
        gone = {(account_id, version) for account_id, version, _ in self.taken}
        for key, state in list(self.damaged.items()):
            if key not in gone:
                change_event(self.store, *key, state=state)
                del self.damaged[key]

    def _restore_all(self) -> None:
        while self.taken:
            put_back(self.store, self.taken.pop()[2])
        self._repair()

    def _publish(self) -> Published:
        relay = Relay.at(self.store, NAME, self.log, batch_events=4)
        relay.run()
        return relay.published("id")

    @rule()
    def publish(self) -> None:
        """Publish; COMPLETE only if everything that was ever appended is on the topic."""
        found = self._publish()
        if found.verdict == "COMPLETE":
            self.check_all_there()
        else:
            assert self.taken or self.damaged
        if not self.may_repeat:
            assert len(self.log.records) == len(set(self.log.records))
            there = Counter(account_id for account_id, _ in self.log.records)
            assert all(each.version == there[each.account_id] + 1 for each in found.parked)

    @rule(crash_after=st.none() | st.integers(0, 6), at=st.integers(0, 4), meanwhile=MEANWHILE)
    def publish_and_be_disturbed(self, crash_after: int | None, at: int, meanwhile: list[str]) -> None:
        """Publish, and be killed after some events, or after all of them; or while another relay gets through.

        The other one may also be at the head of a moment ago, and only try again what waits there.
        """
        self.may_repeat = True

        def disturb() -> None:
            self.log.crash_after = None
            if "restore" in meanwhile:
                self._restore_all()
            if "retry" in meanwhile:
                Relay.at(self.store, NAME, self.log, batch_events=4).retry_parked()
            if "publish" in meanwhile:
                self._publish()

        self.log.crash_after, self.log.meanwhile, self.log.meanwhile_at = crash_after, disturb, at
        with suppress(Crash, PositionMoved):
            self._publish()
        self.log.crash_after = self.log.meanwhile = None

    @rule()
    def publish_whole(self) -> None:
        """A store that is repaired whole is COMPLETE after one run, and everything is on the topic."""
        self._restore_all()
        found = self._publish()
        assert (found.verdict, found.parked) == ("COMPLETE", [])
        self.check_all_there()
        assert self._publish().published == 0

    def check_all_there(self) -> None:
        """Check that the topic has every event ever appended."""
        assert set(self.log.records) == {
            (account_id, state) for account_id, stream in self.streams.items() for state in stream
        }

    @invariant()
    def new_events_are_in_order(self) -> None:
        """Less what was there before, each account's records are its stream from the first on, byte for byte."""
        seen: dict[str, list[bytes]] = {}
        for account_id, state in self.log.records:
            stream = seen.setdefault(account_id, [])
            if state not in stream:
                stream.append(state)
        for account_id, stream in seen.items():
            assert stream == self.streams[account_id][: len(stream)]


TestRelay = RelayMachine.TestCase
TestRelay.settings = settings(stateful_step_count=15)
