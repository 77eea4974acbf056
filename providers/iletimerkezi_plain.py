"""Plain answers of get-report and get-reports, straight from bytes to Structs (see `ulak.providers.plain`)."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import UNSET

from ulak.providers.plain import Plain, PlainItem, Text, Whole, read_plain


class PlainRecipient(PlainItem):
    """One recipient of an order."""

    number: Whole | Text
    status: Whole | Text


class PlainOrder(PlainItem):
    """One order of a list, or the order of a detail answer with a page of its recipients."""

    id: Plain = UNSET
    status: Plain = UNSET
    total: Plain = UNSET
    delivered: Plain = UNSET
    undelivered: Plain = UNSET
    waiting: Plain = UNSET
    submitAt: Plain = UNSET
    sendAt: Plain = UNSET
    sender: Plain = UNSET
    price: Plain = UNSET
    message: list[PlainRecipient] | msgspec.UnsetType = UNSET


class _Stated(PlainItem):
    code: Plain
    message: Plain = UNSET


class _Response(PlainItem):
    status: _Stated
    count: Plain = UNSET
    orders: list[PlainOrder] | msgspec.UnsetType = UNSET
    order: PlainOrder | msgspec.UnsetType = UNSET


class _Reply(PlainItem):
    response: _Response


_DECODE: Final = msgspec.json.Decoder(_Reply).decode


def read_plain_response(body: bytes) -> Mapping[str, Any]:
    """The content of an answer as the tolerant reader has it, its items Structs; `status` is the code alone.

    `NotPlainError` where it is not plain.
    """
    response = read_plain(_DECODE, body).response
    content = {name: response[name] for name in response}
    content["status"] = response.status.code
    if "order" in content:
        content["order"] = dict(content["order"])
    return content
