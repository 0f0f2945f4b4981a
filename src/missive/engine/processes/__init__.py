"""Processes: several worker processes, and the messages that kill one.

`supervisor` starts the worker processes of `missive run --workers`, restarts dead ones, and adds their reports up.
`worker` is the side of the worker process: it sends its state and its report. `inflight` records running messages in
shared memory that survives a crash, and `crashes` reads it, so that a message that keeps killing its process becomes a
dead letter.
"""
