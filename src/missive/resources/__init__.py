"""Resources: values that handlers request from their context, opened at first use and closed in reverse order.

Input: generator functions (`Processor.resource`). Output: the yielded values (`context.get`).
`key` declares a resource, `scope` holds the open resources of an attempt or a worker, `opening` lets several tasks
wait for one of them, `generator` runs a generator to its yield and to its end, and `task` runs the async resource
of a worker in its own task.
"""
