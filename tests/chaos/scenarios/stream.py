"""Kill each process around a stream: the broker, the consumer, the service, the database; and lose a node's disk."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from rwriter import JetStreamStore
from tests.chaos.bookkeeping import Outcome, tally
from tests.chaos.ground import Ground, chance, quick
from tests.chaos.harness import PATIENCE, ROOT, Service
from tests.chaos.service import Orders
from tests.support.brokers import Broker, asked, brokers_in
from tests.support.driving import eventually
from tests.support.sizes import MIB

STREAM: Final = "requests"
EVERYTHING: Final = ("broker", "consumer", "service", "postgres")


class Scene:
    """A journaling service, a stream and a consumer before one database, each to be killed and started again."""

    def __init__(self, ground: Ground, url: str, brokers: Sequence[Broker]) -> None:
        self.told: Final[list[str]] = []
        self.spool: Final = ground.folder("spool")
        self._ground: Final = ground
        self.database: Final = url
        self._brokers: Final = brokers
        self._servers: Final = ",".join(broker.url for broker in brokers)
        self._log: Final = ground.folder("consumer") / "log"
        self._service: Service | None = None
        self._consumer: Process | None = None

    @property
    def service(self) -> Service:
        assert self._service is not None
        return self._service

    async def start_service(self) -> None:
        orders = Orders(
            url=self.database,
            nats=self._servers,
            stream=STREAM,
            spool=str(self.spool),
            journal=True,
            writer=quick(),
        )
        self._service = await self._ground.service(orders).__aenter__()

    async def start_consumer(self) -> None:
        command = [sys.executable, "-m", "tests.chaos.consumer", self._servers, self.database, STREAM]
        with self._log.open("ab") as log:
            self._consumer = await asyncio.create_subprocess_exec(*command, stderr=log, cwd=ROOT)

    def consumer_lives(self) -> None:
        """Fail, with the end of its log, if the consumer ended by itself."""
        assert self._consumer is not None
        assert self._consumer.returncode is None, self._log.read_text(errors="replace")[-3000:]

    async def kill(self, what: str, *, turn: int) -> None:
        """``kill -9`` one of the processes and start it again."""
        if what == "broker":
            broker = self._brokers[turn % len(self._brokers)]
            await asyncio.to_thread(broker.kill)
            await asyncio.to_thread(broker.start)
        elif what == "consumer":
            await self._kill_consumer_at_work()
            await self.start_consumer()
        elif what == "service":
            await self.service.kill()
            self.told.extend(self.service.told)
            await self.start_service()
        else:
            await asyncio.to_thread(self._ground.server.kill)
            await asyncio.to_thread(self._ground.server.start)

    async def _kill_consumer_at_work(self) -> None:
        """Kill the consumer while it has messages in hand and waits for the database."""
        self.consumer_lives()
        assert self._consumer is not None
        connection = await asyncpg.connect(self.database, timeout=PATIENCE)
        try:
            async with connection.transaction():
                await connection.execute("LOCK TABLE requests IN ACCESS EXCLUSIVE MODE")
                await eventually(self._is_delivered, within=PATIENCE)
                self.consumer_lives()
                self._consumer.kill()
                await self._consumer.wait()
        finally:
            await connection.close()

    async def _is_delivered(self) -> bool:
        info = await asked(self._brokers[0], lambda jetstream: jetstream.consumer_info(STREAM, "rwriter"))
        return (info.num_ack_pending or 0) > 0

    async def finish(self) -> None:
        """Wait until everything is where it belongs, and end all by SIGTERM."""
        await self.service.quieten()
        await self.service.delivered()
        self.service.process.terminate()
        await self.service.process.wait()
        await self.service.__aexit__(None, None, None)
        self.told.extend(self.service.told)
        await eventually(self._is_empty, within=PATIENCE)
        self.consumer_lives()
        assert self._consumer is not None
        self._consumer.terminate()
        async with asyncio.timeout(PATIENCE):
            await self._consumer.wait()
        assert self._consumer.returncode == 0, self._log.read_text()[-3000:]

    async def abandon(self) -> None:
        """Kill what still runs."""
        if self._service is not None and self._service.process.returncode is None:
            await self._service.kill()
        if self._consumer is not None and self._consumer.returncode is None:
            self._consumer.kill()
            await self._consumer.wait()

    async def _is_empty(self) -> bool:
        info = await asked(self._brokers[0], lambda jetstream: jetstream.stream_info(STREAM))
        return info.state.messages == 0


@asynccontextmanager
async def scene(ground: Ground, *, nodes: int) -> AsyncIterator[tuple[Scene, Sequence[Broker]]]:
    """Yield a scene at work, its stream on as many nodes as it has replicas."""
    with brokers_in(ground.folder("nats"), nodes) as brokers:
        await _made(brokers, nodes)
        at_work = Scene(ground, await ground.database(), brokers)
        try:
            await at_work.start_service()
            await at_work.start_consumer()
            yield at_work, brokers
        finally:
            await at_work.abandon()


async def anything_killed(ground: Ground, *, rounds: int, what: Sequence[str] = EVERYTHING, seed: int = 7) -> Outcome:
    """Kill each of ``what`` in turn, ``rounds`` times, under load: nothing that ``send`` returned for is lost."""
    moments = chance(seed)
    async with scene(ground, nodes=1) as (at_work, _):
        for turn in range(rounds):
            for each in what:
                await at_work.service.until_told(50 + moments.randrange(200))
                await at_work.kill(each, turn=turn)
        await at_work.service.until_told(50)
        await at_work.finish()
        return await _closed(f"stream: {', '.join(what)} killed x{rounds}", at_work)


async def disks_wiped(ground: Ground, *, rounds: int, seed: int = 8) -> Outcome:
    """Kill each of three nodes in turn and remove its disk's content: the other two bring it back."""
    moments = chance(seed)
    async with scene(ground, nodes=3) as (at_work, brokers):
        for turn in range(3 * rounds):
            await at_work.service.until_told(50 + moments.randrange(200))
            broker = brokers[turn % 3]
            await asyncio.to_thread(broker.kill)
            broker.wipe()
            await asyncio.to_thread(broker.start)
            # a second disk lost before the first is filled again is a loss that three replicas do not promise against
            await eventually(lambda: _is_whole(brokers), within=PATIENCE)
        await at_work.finish()
        return await _closed(f"stream: each node's disk wiped x{rounds}", at_work)


async def _closed(fault: str, at_work: Scene) -> Outcome:
    outcome = await tally(fault, at_work.told, at_work.database, at_work.spool)
    assert (outcome.lost, outcome.spooled, outcome.dead) == (0, 0, 0), outcome
    assert outcome.offered > 0
    return outcome


async def _made(brokers: Sequence[Broker], replicas: int) -> None:
    async def is_made() -> bool:
        try:
            async with JetStreamStore([broker.url for broker in brokers], stream=STREAM) as store:
                await store.create_stream(max_bytes=256 * MIB, replicas=replicas)
        except Exception:  # noqa: BLE001 -- a cluster takes a moment to choose its leader
            return False
        return True

    await eventually(is_made, within=PATIENCE)


async def _is_whole(brokers: Sequence[Broker]) -> bool:
    for broker in brokers:
        try:
            info = await asked(broker, lambda jetstream: jetstream.stream_info(STREAM))
        except Exception:  # noqa: BLE001 -- no leader yet
            return False
        replicas = (info.cluster.replicas or []) if info.cluster is not None else []
        if info.cluster is None or not info.cluster.leader or len(replicas) != len(brokers) - 1:
            return False
        if not all(replica.current for replica in replicas):
            return False
    return True
