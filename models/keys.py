"""Keys of deliveries that are made of parts."""


def join_key(*parts: str | int) -> str:
    """Join parts with `:`; `%` and `:` inside a part are percent-encoded, so that the parts can be told apart again.

    >>> join_key("a:b", 7)
    'a%3Ab:7'
    """
    return ":".join(str(part).replace("%", "%25").replace(":", "%3A") for part in parts)


def split_key(key: str) -> tuple[str, ...]:
    """The parts that `join_key` joined.

    >>> split_key("a%3Ab:7")
    ('a:b', '7')
    """
    return tuple(part.replace("%3A", ":").replace("%25", "%") for part in key.split(":"))
