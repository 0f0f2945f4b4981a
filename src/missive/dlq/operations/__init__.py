"""What an operator does with dead letters; the command line and the console are faces of these."""

from missive.dlq.operations.dryrun import Tried, dry_run
from missive.dlq.operations.exchange import export, import_file, private_file
from missive.dlq.operations.purging import purge
from missive.dlq.operations.replaying import cancel, found, resume, run, start
from missive.dlq.operations.selection import CLOSED, FREE, Selection, select
from missive.dlq.operations.showing import details, summary

__all__ = [
    "CLOSED",
    "FREE",
    "Selection",
    "Tried",
    "cancel",
    "details",
    "dry_run",
    "export",
    "found",
    "import_file",
    "private_file",
    "purge",
    "resume",
    "run",
    "select",
    "start",
    "summary",
]
