"""`ulak worker` without rules of `ulak.models.ledger.sharing`: `python without_rules.py RULE worker --name …`.

RULE: `even` (the even part while others wait), `patience` (half of the threads for the slow), `yielding` (a slow
account gives way after its answer), `all`. The production code knows nothing of this.
"""

import sys
from dataclasses import replace

from ulak.cli.main import main
from ulak.models.ledger import sharing
from ulak.models.ledger.sharing import Pool

share = sharing.share
OFF = {"even": {"is_crowded": False}, "patience": {"is_slow": False}, "yielding": {"gives_way": False}}


def share_without(rule: str, pool: Pool) -> int:
    """How many calls the account may have in the air, without the rule."""
    return pool.threads if rule == "all" else share(replace(pool, **OFF[rule]))


if __name__ == "__main__":
    rule = sys.argv.pop(1)
    sharing.share = lambda pool: share_without(rule, pool)
    sys.argv[0] = "ulak"
    main()
