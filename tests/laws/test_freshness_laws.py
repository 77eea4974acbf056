"""How much of a delivery counts as fresh, where the moment it became final is known only to lie in an interval."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from ulak.models.freshness import part_within
from ulak.models.objectives import BOUNDS

_PARTS = text(f"""
    SELECT {part_within("bound")} AS part, {part_within("bound * 2")} AS part_of_twice
    FROM (SELECT CAST(:least AS double precision), CAST(:most AS double precision), CAST(:bound AS double precision))
        AS given(least, most, bound)
""")


@settings(deadline=None)
@given(least=st.floats(0, 1e6), width=st.floats(0, 1e6), bound=st.sampled_from(BOUNDS))
def test_a_delivery_counts_by_the_part_of_its_interval(
    shared_database: Engine, least: float, width: float, bound: float
) -> None:
    """Between nothing and one, never less for a larger bound; a known moment is all or nothing."""
    most = least + width
    with shared_database.connect() as connection:
        part, part_of_twice = connection.execute(_PARTS, {"least": least, "most": most, "bound": bound}).one()
        known, _ = connection.execute(_PARTS, {"least": least, "most": least, "bound": bound}).one()
    assert 0.0 <= part <= 1.0
    assert part <= part_of_twice
    assert known in {0.0, 1.0}
    if width > 0 and least < bound < most:
        assert math.isclose(part * width, bound - least, rel_tol=1e-6, abs_tol=1e-6)
