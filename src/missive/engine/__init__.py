"""The engine: it moves each message one way: fetch → route → lane → execute → decide → settle.

Input: a processor and its adapters. Output: settled deliveries, dead letters, and a report. A message meets the rooms
in this order: `intake` fetches and routes it, `dispatch` queues it in its lane and submits it, `workers` run the
handler and decide, and `completion` settles it, files it, or lets it wait. `processes` runs several workers. `runner`
starts an `engine`, `assembly` connects its stations, and `stages` lists the optional concerns. All stations share the
`job`, the `state`, the `runtime` (clock, ids and threads), the `limits` and the `store`; `drain` empties them, and
`report` counts the outcomes.
"""
