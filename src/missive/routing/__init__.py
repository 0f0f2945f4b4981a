"""Routing: choose the one handler for each message.

Input: the routes of a processor, each a matcher with its handler. Output: the route of a message, or why it has none.
Registration analyses a matcher (`normal`, `globs`, `kinds`, `bounds`, `topics`, `proofs`, `conflicts`) and compares it
with the registered matchers that share places with it (`overlaps`, which uses `ranges` and `intervals`).
A message meets `router`, which asks `index` and its `places`, and returns a `route`.
`explain` describes the choice for one message, `check` reports on all routes, and `witness` makes example messages.
`solver` finds their values or proves that there are none, with `samples`, and with `texts`, which runs the machines of
`machines` and `expressions` (`automata` has their base).
"""
