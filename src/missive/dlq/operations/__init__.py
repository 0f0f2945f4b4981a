"""What an operator does with dead letters; the command line and the console are faces of these."""

from missive.dlq.operations.dryrun import Tried, dry_run
from missive.dlq.operations.editing import difference, edit
from missive.dlq.operations.exchange import export, import_file, private_file
from missive.dlq.operations.purging import purge
from missive.dlq.operations.replaying import cancel, followed, found, resume, run, set_off, start
from missive.dlq.operations.selection import CLOSED, FREE, Selection, select
from missive.dlq.operations.showing import details, summary
from missive.dlq.operations.watching import watch

__all__ = [
    "CLOSED",
    "FREE",
    "Selection",
    "Tried",
    "cancel",
    "details",
    "difference",
    "dry_run",
    "edit",
    "export",
    "followed",
    "found",
    "import_file",
    "private_file",
    "purge",
    "resume",
    "run",
    "select",
    "set_off",
    "start",
    "summary",
    "watch",
]
