"""What an operator does with dead letters; the command line and the console are faces of these."""

from missive.dlq.operations.dryrun import Tried, dry_run
from missive.dlq.operations.exchange import export, import_file, private_file
from missive.dlq.operations.purging import purge
from missive.dlq.operations.replaying import Replayed, queue, replay
from missive.dlq.operations.selection import CLOSED, FREE, Selection, select
from missive.dlq.operations.showing import details, summary

__all__ = [
    "CLOSED",
    "FREE",
    "Replayed",
    "Selection",
    "Tried",
    "details",
    "dry_run",
    "export",
    "import_file",
    "private_file",
    "purge",
    "queue",
    "replay",
    "select",
    "summary",
]
