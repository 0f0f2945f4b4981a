"""What the tests lean on: real brokers, run privately."""
