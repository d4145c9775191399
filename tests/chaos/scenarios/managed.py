"""Two nodes under Patroni: the leader killed as a lost machine, then switched over, under services that know both."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from rwriter import migrate
from tests.chaos.bookkeeping import Outcome, ask, tally
from tests.chaos.ground import Ground, quick
from tests.chaos.harness import Service
from tests.chaos.patroni import Cluster, Node, cluster
from tests.chaos.service import Orders

# as in failover.py: no address is waited for longer than this
IMPATIENT: dict[str, Any] = {"connect_timeout": 1.0, "statement_timeout": 5.0}


async def failed_and_switched_over(ground: Ground, *, rounds: int) -> Outcome:
    """Kill the leader, let it come back, and switch over to it, ``rounds`` times: with a spool and without one."""
    async with AsyncExitStack() as stack:
        nodes: Cluster = await stack.enter_async_context(cluster())
        await migrate.upgrade(nodes.url)
        spool = ground.folder("spool")
        with_spool = Orders(url=nodes.url, spool=str(spool), writer=quick(flush_timeout=10.0), **IMPATIENT)
        without = Orders(url=nodes.url, writer=quick(flush_timeout=10.0), pause=0.02, **IMPATIENT)
        services = [await stack.enter_async_context(ground.service(orders)) for orders in (with_spool, without)]
        for service in services:
            await service.until_stored(100)
        for _ in range(rounds):
            await _killed(nodes, services)
            await _switched_over(nodes, services)
        return await _accounted(nodes, services, spool)


async def _killed(nodes: Cluster, services: list[Service]) -> None:
    leader = await nodes.leader()
    leader.kill()
    await nodes.promoted(nodes.other(leader))
    await _written_to(nodes, nodes.other(leader), services)
    leader.start()
    await nodes.whole()


async def _switched_over(nodes: Cluster, services: list[Service]) -> None:
    leader = await nodes.leader()
    await nodes.switch_over(leader)
    await _written_to(nodes, nodes.other(leader), services)
    await nodes.whole()


async def _written_to(nodes: Cluster, node: Node, services: list[Service]) -> None:
    """Wait until the node has more rows than now, and each service has stored more directly."""
    (before,) = await ask(nodes.direct(node), "SELECT count(*) FROM requests")

    async def grown() -> bool:
        (rows,) = await ask(nodes.direct(node), "SELECT count(*) FROM requests")
        return int(rows) > int(before)

    for service in services:
        await service.until(grown)
        await service.until_stored(50)


async def _accounted(nodes: Cluster, services: list[Service], spool: Any) -> Outcome:
    dropped, spooled, told = 0, 0, []
    for service in services:
        await service.quieten()
        await service.delivered()
        report = await service.terminate()
        dropped, spooled = dropped + report.stats.dropped, spooled + report.stats.spooled
        told += service.told
    leader = await nodes.leader()
    url = nodes.direct(leader)
    outcome = await tally("leader under Patroni killed, switched over", told, url, spool, note=f"{spooled} spooled")
    assert (outcome.lost, outcome.spooled, dropped, outcome.stored) == (0, 0, 0, outcome.offered), outcome
    return outcome
