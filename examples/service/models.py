"""The service's own models. An order refers to the request that it came from."""

from __future__ import annotations

import uuid

from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from rwriter import orm, schema


class Base(DeclarativeBase):
    """The base of the service's models, with a ``MetaData`` of its own."""


class Customer(Base):
    """Whoever orders."""

    __tablename__ = "customers"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Order(Base):
    """An order, and the request that a model read it from."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"))
    request_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey(schema.requests.c.id, ondelete="SET NULL"))
    request: Mapped[orm.Request | None] = relationship(orm.Request)
