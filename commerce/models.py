"""The base of all tables of the business: they live in the schema ``commerce``."""

from __future__ import annotations

from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase, MappedAsDataclass


class Base(MappedAsDataclass, DeclarativeBase):
    """A table whose rows are dataclasses; the migrations are what creates it."""

    metadata = MetaData(schema="commerce")
