"""CORS of a VirtualService's route."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from meshlib.controlplane.documents.fields import Duration, Message, Name, one_of
from meshlib.controlplane.documents.string_match import StringMatch


@dataclass(frozen=True, slots=True, kw_only=True)
class CorsPolicy(Message):
    """``CorsPolicy``: which other origins may call, and how."""

    allow_origin: tuple[str, ...] = ()
    allow_origins: tuple[StringMatch, ...] = ()
    allow_methods: tuple[Name, ...] = ()
    allow_headers: tuple[Name, ...] = ()
    expose_headers: tuple[Name, ...] = ()
    max_age: Duration | None = None
    allow_credentials: bool | None = None
    unmatched_preflights: Annotated[str, one_of("UNSPECIFIED", "FORWARD", "IGNORE")] = "UNSPECIFIED"
