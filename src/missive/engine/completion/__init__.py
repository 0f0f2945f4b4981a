"""Completion: decided jobs leave the engine, or wait for another run.

Input: jobs from the workers, each with its decision. Output: settled deliveries and stored records. `completion`
collects the jobs and splits them by decision. `redelivery` lets a failed job wait; `parking` moves long waits to the
store, and `attempts` counts them. `dead_letters` makes records (`records`) durable. `idempotency` keeps the claims of
`once=` (`claims`). `settlement` tells the transport, by `watermark` where it commits cumulatively. `exits` accounts
for every job that leaves.
"""
