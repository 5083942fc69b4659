"""A Kafka topic as a source: described, read partition by partition up to its end, and replayed whole.

`connection` says how to reach the brokers, `metadata` what a topic is, `client` what a reader of one partition
does; `reader_python` and `reader_librdkafka` are that protocol on either client.
"""
