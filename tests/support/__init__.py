"""Support for the tests: real brokers, run privately."""
