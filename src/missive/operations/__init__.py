"""Operations on dead letters and deployments, shared by the command line and the console.

Each function takes an open store, a processor or adapters, and returns values to show; none prints or asks. In the
order in which an operator meets them: `stores` opens a store, `selection` chooses records, `views` shows them, and
`preview`, `replay`, `edit`, `export`, `imports`, `purge` and `watch` work on them. `doctor` checks a deployment, and
`workers` runs one in several processes. Import functions from these modules: the package itself loads none of them.
"""
