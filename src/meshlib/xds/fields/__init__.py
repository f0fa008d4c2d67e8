"""What becomes of each field received: honoured, of no matter here (and why), or noted.

A field that a table does not name is noted as "is not honoured": nothing is ignored in silence.
Nested messages have tables of their own. :meth:`~meshlib.xds.scope.Scope.audit` looks at one
message, so the decoder of an honoured field audits what is inside it, unless that table notes
nothing. ``tests/xds/test_honesty.py`` proves each table by changing each field it names.
"""

from __future__ import annotations

from collections.abc import Mapping

from meshlib.xds.fields import (
    balancing,
    cluster,
    core,
    discovery,
    endpoint,
    filters,
    listener,
    matcher,
    protocols,
    route,
    tls,
)
from meshlib.xds.fields.table import NOT_HONOURED, Fields

__all__ = ["FIELDS", "NOTHING_KNOWN", "NOT_HONOURED", "Fields"]

NOTHING_KNOWN = Fields()

FIELDS: Mapping[str, Fields] = {
    **core.FIELDS,
    **route.FIELDS,
    **matcher.FIELDS,
    **cluster.FIELDS,
    **discovery.FIELDS,
    **balancing.FIELDS,
    **protocols.FIELDS,
    **endpoint.FIELDS,
    **listener.FIELDS,
    **filters.FIELDS,
    **tls.FIELDS,
}
