"""RabbitMQ, through pika: queues over AMQP 0-9-1."""

from missive.adapters.rabbitmq.adapter import RabbitMQAdapter

__all__ = ["RabbitMQAdapter"]
