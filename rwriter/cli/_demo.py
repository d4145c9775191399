"""``rwriter demo``: shows the library at work."""

from __future__ import annotations

from typing import Annotated

import typer

from rwriter.engines._urls import URL_FORM

demo_app = typer.Typer()


@demo_app.command()
def demo(
    *,
    # not from the environment: the demo writes, and that variable may well name production
    database_url: Annotated[
        str | None, typer.Option(metavar="URL", help=f"A server of your own, {URL_FORM}; else one is started here.")
    ] = None,
    schema: Annotated[str | None, typer.Option(metavar="NAME", help="Where the tables are.")] = None,
    stop: Annotated[bool, typer.Option("--stop", help="Stop the server an earlier run left behind.")] = False,
) -> None:
    """Feed the writer real traffic and show the rows stored."""
    import rwriter.demo  # noqa: PLC0415 -- the other commands must not need what it imports

    raise typer.Exit(rwriter.demo.main(database_url=database_url, schema=schema, stop=stop))
