"""`missive routes`, `check` and `explain`: the routing of an application, without running it."""

from __future__ import annotations

import click

from missive.cli import options
from missive.cli.command import Command
from missive.cli.inputs import HEADERS_HELP, check_one_reader, read_content, read_headers, read_text
from missive.cli.output import say, show_json, show_table


@click.command(cls=Command)
@click.argument("target", required=False)
@options.as_json
@options.factory
def routes(target: str, as_json: bool, factory: bool) -> None:
    """List the handlers of an application and their matchers."""
    from missive.cli.target import load_processor  # noqa: PLC0415 - `missive --help` stays quick

    table = [route.to_dict() for route in load_processor(target, factory=factory).routes()]
    if as_json:
        show_json(table)
    else:
        show_table(
            ["HANDLER", "KIND", "MATCHER"],
            [(r["handler"], r["kind"], r["matcher"]) for r in table],
        )


@click.command(cls=Command)
@click.argument("target", required=False)
@options.as_json
@options.factory
def check(target: str, as_json: bool, factory: bool) -> None:
    """Report the cost of routing, and handlers that overlap.

    For two handlers that overlap, the report shows a message that both match, made up from their matchers. Callables
    cannot be compared; their pairs are counted as unknown. Handlers that can never run are errors at registration, so
    they do not get this far.

    \b
      missive check app:proc
      missive check app:proc --json | jq .overlap_count
    """  # noqa: D301 - \b is click's
    from missive.cli.target import load_processor  # noqa: PLC0415 - `missive --help` stays quick

    found = load_processor(target, factory=factory).check()
    if as_json:
        show_json(found.to_dict())
    else:
        for line in str(found).split("\n"):
            say(line)


@click.command(cls=Command)
@click.argument("target", required=False)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--headers", metavar="FILE|-", help=HEADERS_HELP)
@click.option("--topic", help="The topic, subject or routing key.")
@click.option("--key-file", metavar="FILE|-", help="A file that holds the key by which the transport partitions.")
@options.as_json
@options.factory
def explain(
    target: str,
    file: str,
    headers: str | None,
    topic: str | None,
    key_file: str | None,
    as_json: bool,
    factory: bool,
) -> None:
    """Explain which handler would get a message, and why.

    FILE holds the body of one message; - reads it from standard input. For each handler that does not match, the output
    names the conditions that fail. It shows only the values that the processor declares public. Headers and the key are
    read from files too, because every user of the machine can read arguments.
    """
    from missive.cli.target import load_processor  # noqa: PLC0415 - `missive --help` stays quick
    from missive.operations.preview import explain_body  # noqa: PLC0415 - as above

    processor = load_processor(target, factory=factory)
    check_one_reader(file, headers, key_file)
    explanation = explain_body(
        processor,
        read_content(file, "the argument"),
        headers=[] if headers is None else read_headers(headers),
        topic=topic,
        key=None if key_file is None else read_text(key_file, "--key-file"),
    )
    if as_json:
        show_json(explanation.to_dict())
    else:
        for line in str(explanation).split("\n"):
            say(line)


COMMANDS = (routes, check, explain)
