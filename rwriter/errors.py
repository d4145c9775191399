"""Every exception the library raises on purpose; each message tells the reader what to do."""

from __future__ import annotations

from typing import Final


class RwriterError(Exception):
    """Base of every exception rwriter raises on purpose."""


class WriterNotOpen(RwriterError):
    """A record was offered before the writer was opened.

    Enter ``async with RequestsWriter(...)`` first, or start ``run(shutdown)`` and await ``wait_open()``.
    """


class WriterClosed(RwriterError):
    """A record was offered after ``aclose()`` began. It was not accepted: keep it or report it."""


class WriterFailed(WriterClosed):
    """The writer's background task ended too early; ``__cause__`` says why.

    Records still pending stay in the account: ``aclose()`` delivers, spools or counts them.
    """


class WriterForked(WriterClosed):
    """The writer was opened before a fork: its task and connections stayed with the parent.

    Open a writer in each worker: in the ASGI lifespan, or in the server's post-fork hook.
    """


class ChannelFull(RwriterError):
    """``send_nowait`` found no room (by records or by bytes). Await ``send``, or shed the record knowingly."""


class SpoolFull(RwriterError):
    """The spool on disk has reached ``max_bytes``: raise it, or let the database come back."""


class SpoolUnusable(RwriterError):
    """The spool cannot be opened or used: its folder, its file or its disk says no, or it is another database's."""


class ArchiveUnusable(RwriterError):
    """An archive cannot be reached or used: its folder or bucket says no, or it belongs to another database."""


class ArchiveDamaged(RwriterError):
    """A file of an archive is missing, cut or changed. The text names it; the partition was not dropped for it."""


class SchemaOutdated(RwriterError):
    """The database is not at the revision this release needs. Run ``rwriter migrate``."""


class DatabaseRefused(RwriterError):
    """The database refuses this service: a wrong password, no such database, a missing table or privilege.

    Raised on start with the server's own words; nothing could be stored until somebody mends it.
    """


class SinkUnavailable(RwriterError):
    """A sink is away, busy or full: the writer gives it the same records again later, and blames none of them."""


class SinkMisconfigured(RwriterError):
    """A sink can take nothing until somebody mends its set-up; the text says what. Raised on start."""


class SinkRefusedRecord(RwriterError):
    """A sink can never take one of the records it was given: the writer finds out which one, and buries it."""


class RequestExists(RwriterError):
    """``create_realtime`` was called with the id of a row that is already there. Use a fresh ``new_request_id()``."""


NO_PARTITION: Final = (
    "is in none of the partitions: the tables are partitioned by id. Use new_request_id(), and have "
    "`rwriter partitions ensure` make the partitions ahead"
)


class IdRefused(RwriterError, ValueError):
    """The tables are partitioned by id, and no partition takes this one: it is no UUIDv7, or of another time."""


class InvalidCursor(RwriterError, ValueError):
    """A listing cursor that this library did not make. Start again without a cursor."""


class RecordNotStored(RwriterError):
    """A record sent with ``wait="committed"`` has no row of its own. The subclasses say why."""


class RecordRejected(RecordNotStored):
    """The database refused the record itself; it is kept, complete, in ``dead_letters``."""


class RecordSkipped(RecordNotStored):
    """A row with this id exists that the writer may not touch: it belongs to a batch, another tier or was deleted."""


class RecordSpooled(RecordNotStored):
    """The database was down; the record is in the spool on disk and is replayed when the database is back."""


class RecordDropped(RecordNotStored):
    """The database stayed down past the retries (or the drain deadline), and there was no spool to take the record."""
