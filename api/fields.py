"""The small types that requests are made of, each with its bounds."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Header, Path
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from ulak.api.cursors import MAX_ID
from ulak.api.validation_messages import ACCOUNT_ID, KEY, NO_NUL

_FIRST, _LAST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)


def in_our_time(moment: datetime) -> datetime:
    """The moment, if between 2000 and 2100: adding an hour at the calendar's ends would overflow."""
    if not _FIRST <= moment < _LAST:
        raise ValueError("must lie between the years 2000 and 2100")
    return moment


# PostgreSQL stores no NUL.
Text = Annotated[str, StringConstraints(min_length=1, max_length=400, pattern=NO_NUL)]
AccountId = Annotated[str, StringConstraints(pattern=ACCOUNT_ID)]
Moment = Annotated[AwareDatetime, AfterValidator(in_our_time)]
RowId = Annotated[int, Path(ge=1, le=MAX_ID)]
Limit = Annotated[int, Field(ge=1, le=1000, description="How many at most.")]
Cursor = Annotated[str, StringConstraints(max_length=500), Field(description="`cursor` of the last answer.")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        pattern=KEY,
        description="The same key gives the same poll, however often the request is sent.",
    ),
]


class Given(BaseModel):
    """What a caller gives: a field that we do not know is refused, not passed over."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)
