"""The application: the declarations of a user, until the engine runs them.

Input: handlers, hooks, resources and their options. Output: routes with their terms, and the contexts that handlers
receive. `processor` is the entry. `options` and `checks` check a handler and make its `terms` (with `retry` and
`breaker`), `admission` compares its matcher with the known ones, and `registration` stores it and compiles the routes.
`caller` finds the application code that a name or a warning belongs to. A handler receives a `context`, or a `batch` of
them; `hooks` run around it. `test_client` opens the client for tests.
"""
