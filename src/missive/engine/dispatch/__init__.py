"""Dispatch: routed jobs wait for their turn and go to the workers.

Input: jobs from admission, and held jobs that are due. Output: jobs, batches and lane runs, submitted to a worker
pool. `dispatcher` is the station; `lanes` keep order, `batcher` collects batches, `limiter` and `circuit` limit
handlers, sources and dependencies (`limiters` finds them for a job), and `held` keeps jobs in memory until they are
due. `isolation` runs a message alone that may have killed a process.
"""
