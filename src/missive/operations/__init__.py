"""Operations on dead letters and deployments, shared by the command line and the console.

Each function takes an open store, a processor or adapters, and returns values to show; none prints or asks. In the
order in which an operator meets them: `stores` opens a store, `selection` chooses records, `views` shows them, and
`preview`, `replay`, `edit`, `export`, `imports`, `purge` and `watch` work on them. `doctor` checks a deployment, and
`workers` runs one in several processes; import these two by module, so that listing dead letters loads no engine.
"""

from missive.operations.edit import describe_edit, edit_record
from missive.operations.export import export_records, private_file, save_body
from missive.operations.imports import import_records
from missive.operations.preview import RoutePreview, explain_body, preview_routes
from missive.operations.purge import purge_records
from missive.operations.replay import (
    cancel_replay,
    count_removed,
    find_replay,
    follow_replay,
    hand_over_replay,
    resume_replay,
    run_replay,
    start_replay,
)
from missive.operations.selection import CLOSED, REPLAYABLE, Selection, find_record, select_records
from missive.operations.stores import DEFAULT_DLQ, choose_dlq, open_named_store
from missive.operations.views import details, summary
from missive.operations.watch import watch_failures

__all__ = [
    "CLOSED",
    "DEFAULT_DLQ",
    "REPLAYABLE",
    "RoutePreview",
    "Selection",
    "cancel_replay",
    "choose_dlq",
    "count_removed",
    "describe_edit",
    "details",
    "edit_record",
    "explain_body",
    "export_records",
    "find_record",
    "find_replay",
    "follow_replay",
    "hand_over_replay",
    "import_records",
    "open_named_store",
    "preview_routes",
    "private_file",
    "purge_records",
    "resume_replay",
    "run_replay",
    "save_body",
    "select_records",
    "start_replay",
    "summary",
    "watch_failures",
]
