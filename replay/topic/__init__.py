"""A Kafka topic as a source: described, read partition by partition up to its end, and replayed whole.

`connection` says how to reach the brokers, `metadata` what a topic is, `client` what a reader of one partition
does; `reader_python` and `reader_librdkafka` are that protocol on either client. `partition` replays one, `workers`
several side by side, `full_replay` merges them; `rebuild` makes of it what `replay.rebuild` makes of the store.
"""

from replay.topic.connection import Connection
from replay.topic.full_replay import replayed_topic
from replay.topic.metadata import Topic, describe
from replay.topic.rebuild import balances_from_topic, rebuild_from_topic
from replay.topic.refusals import topic_named

__all__ = [
    "Connection",
    "Topic",
    "balances_from_topic",
    "describe",
    "rebuild_from_topic",
    "replayed_topic",
    "topic_named",
]
