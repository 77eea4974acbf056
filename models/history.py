"""The facts of a delivery's only statement: not stored beside it, since the row says them.

Most deliveries are final when first seen and never reported again. Their observation keeps the raw item and leaves
`facts` null; they are restored from the row. A writer that adds a second statement stores the first one's facts with
it, so null facts always mean: there is no other statement, and the row is what this one said. The content hash is kept,
so a row that was changed by hand is noticed (`holds`).

Facts stay where the row does not give them back exactly, and where they would have to be stored soon: while the
delivery is open.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from ulak.models.facts import Facts, content_hash
from ulak.models.merge import FACT_FIELDS, Observation
from ulak.models.sanitize import iso_time
from ulak.models.vocabulary import Granularity, is_final

_CONVERSATION = Granularity.CONVERSATION
_TIMES = ("sent_at", "done_at", "valid_until")
_PLAIN = frozenset({str, bool, int, type(None)})
"""What JSON gives back as it was given; a float may come back as an integer, which would be another hash."""

ROW_OF_ONLY = f"""
CASE WHEN o.facts IS NULL THEN
  (SELECT to_jsonb(only_row)
   FROM (SELECT {", ".join(FACT_FIELDS)} FROM delivery_status WHERE id = o.delivery_id) only_row)
END
"""
"""SQL: what `restore` needs for an observation `o`, null where its facts are stored. Walks the primary key."""

KEEPS_FACTS = "(SELECT attnotnull FROM pg_attribute WHERE attrelid = 'observations'::regclass AND attname = 'facts')"
"""SQL: whether every statement must keep its facts, because processes of the previous version may still read them."""


def row_says(granularity: Granularity, facts: Facts) -> bool:
    """Whether the row of a delivery with this statement alone may stand for its facts."""
    if granularity is _CONVERSATION or facts.day is not None or not is_final(facts.status):
        return False
    return facts.extra is None or _PLAIN.issuperset(map(type, facts.extra.values()))


def restore(row: Mapping[str, Any]) -> Facts:
    """The facts of the only statement of a delivery, from its row as `ROW_OF_ONLY` gives it."""
    facts = {name: row[name] for name in FACT_FIELDS if row[name] is not None}
    for name in _TIMES:
        if name in facts:
            facts[name] = iso_time(datetime.fromisoformat(facts[name]))
    if "credits" in facts:
        facts["credits"] = float(facts["credits"])
    if not facts["extra"]:
        del facts["extra"]
    return msgspec.convert(facts, Facts)


def holds(seen: Observation) -> bool:
    """Whether the facts are those that were hashed when the statement came."""
    return content_hash(seen.facts) == seen.content_hash
