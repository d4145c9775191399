"""``rwriter consume``: stores what services publish to a stream."""

from __future__ import annotations

import asyncio
import signal

import click
import msgspec

from rwriter.cli import _options as options
from rwriter.cli._output import to_json

URL_VARIABLE = "RWRITER_NATS_URL"


@click.command("consume")
@click.option(
    "--from",
    "servers",
    metavar="URL",
    envvar=URL_VARIABLE,
    show_envvar=True,
    required=True,
    help="nats://HOST:4222, every server of a cluster with commas between them.",
)
@click.option("--stream", metavar="NAME", required=True, help="The stream's name.")
@click.option("--durable", metavar="NAME", default="rwriter", help="The name that all consumers share.")
@click.option("--concurrency", type=click.IntRange(min=1), default=2, help="Flushes at once.")
@click.option("--ledger", is_flag=True, help="Write an entry beside each batch, for rwriter audit.")
@options.schema
@options.database_url
@options.json
def consume(  # noqa: PLR0913 -- one for each option
    *,
    servers: str,
    stream: str,
    durable: str,
    concurrency: int,
    ledger: bool,
    schema: str | None,
    database_url: str | None,
    json: bool,
) -> None:
    """Store what services publish to a stream, until SIGTERM; then finish what is in hand and print the account."""
    import rwriter.stream  # noqa: PLC0415 -- the other commands must not need what it imports

    async def work() -> rwriter.stream.ConsumerStats:
        async with options.engines_for(database_url, schema, pool_size=concurrency + 1) as engines:
            try:
                consumer = rwriter.stream.StreamConsumer(
                    servers, engines, stream=stream, durable=durable, concurrency=concurrency, ledger=ledger
                )
            except ValueError as exc:
                raise click.UsageError(str(exc)) from None
            await consumer.run(_shutdown())
        return consumer.stats

    account = msgspec.to_builtins(asyncio.run(work()))
    click.echo(to_json(account) if json else "  ".join(f"{name} {number}" for name, number in account.items()))


def _shutdown() -> asyncio.Event:
    """Return an event that SIGTERM and Ctrl-C set."""
    shutdown = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, shutdown.set)
    return shutdown
