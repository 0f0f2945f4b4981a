"""The RabbitMQ adapter: consume queues over AMQP 0-9-1 through pika.

The adapter takes keywords or a URL, and its sessions give deliveries to the engine and send settlements to the broker.
`adapter` checks the options, `settings` and `address` hold them, `session` connects and settles, `reader` reads
deliveries out of the received bytes, `unacked` chooses the ack frames, and `errors` translates pika's errors.
`diagnostics` and `declaration` serve `missive doctor`.
"""

from missive.adapters.rabbitmq.adapter import RabbitMQAdapter

__all__ = ["RabbitMQAdapter"]
