"""From matchers to the one handler for a message: the index, the proofs at registration, the explanation."""
