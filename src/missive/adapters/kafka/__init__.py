"""Kafka, through confluent-kafka: partitions as lanes, committed by marks."""

from missive.adapters.kafka.adapter import KafkaAdapter

__all__ = ["KafkaAdapter"]
