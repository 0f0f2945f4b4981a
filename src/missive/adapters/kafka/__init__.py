"""The adapter for Kafka, through confluent-kafka: topics in, deliveries out, offsets committed per partition.

A message meets the modules in this order: `adapter` (parameters and URL), `settings` (their checked values), `client`
(the library's consumer), `consumer` (its thread), `assignment` (rebalances), `lanes` (assigned partitions), `flow`
(limits and pauses), `session` (the engine's side) and `positions` (committed offsets). `topics` and `beginnings` notice
topics and partitions that appear or are created again. `security` limits URLs and demands TLS. `errors` translates
errors of the client. `diagnostics` serves `missive doctor`.
"""

from missive.adapters.kafka.adapter import KafkaAdapter

__all__ = ["KafkaAdapter"]
