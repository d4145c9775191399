"""``rwriter demo``: shows the library at work."""

from __future__ import annotations

import click

from rwriter._values.variables import URL_FORM


# URL and schema not from the environment: the demo writes, and those variables may well name production
@click.command("demo")
@click.option("--database-url", metavar="URL", help=f"A server of your own, {URL_FORM}; else one is started here.")
@click.option("--schema", metavar="NAME", help="Where the tables are.")
@click.option("--stop", is_flag=True, help="Stop the server an earlier run left behind.")
def demo(*, database_url: str | None, schema: str | None, stop: bool) -> None:
    """Feed the writer real traffic and show the rows stored."""
    import rwriter.demo  # noqa: PLC0415 -- the other commands must not need what it imports

    raise click.exceptions.Exit(rwriter.demo.main(database_url=database_url, schema=schema, stop=stop))
