"""Intake: deliveries of a source become routed jobs.

Input: sessions of an adapter. Output: jobs in the dispatcher. `intake` is the loop that connects and fetches, within
the credit of the `source`. `admission` makes messages (`factory`), passes the stages, routes, and queues each job in
its lane. `leases` renews held leases, `backpressure` pauses slow lanes, `assignment` moves lanes between consumers,
`watchdog` finds a source without progress, and `host` is the engine as a session sees it.
"""
