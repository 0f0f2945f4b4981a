"""Workers: run handlers and decide how each attempt ends.

Input: jobs, batches and lane runs from the dispatcher. Output: the same, decided, through the outbox. `compiler` turns
each route into one function, from `handlers`, `lane_runs`, `batches` and `claim_guard`. `pool` queues work for
`threads` (sync handlers) or `tasks` (async handlers). `decision` and `policies` decide an attempt, and `outbox` returns
it to the engine. `hooks` start and end a worker; `monitor` watches timeouts.
"""
