"""What an operator does with dead letters; the command line and the console are faces of these."""

from missive.operations.dryrun import Tried, dry_run
from missive.operations.editing import difference, edit
from missive.operations.exchange import export, import_file, private_file
from missive.operations.purging import purge
from missive.operations.replaying import cancel, followed, found, resume, run, set_off, start
from missive.operations.selection import CLOSED, FREE, Selection, select
from missive.operations.showing import details, summary
from missive.operations.watching import watch

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
