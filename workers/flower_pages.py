"""What Flower's own pages lack: they can be framed, and an error shows a stranger the traceback and the settings.

Flower takes no handlers or headers from outside, so the base class of all its handlers is changed. Tested against the
version that `requirements/` pins.
"""

from http import HTTPStatus
from typing import Any, Final

from flower.views import BaseHandler
from tornado.web import HTTPError

from ulak.core.logging import get_logger

log = get_logger(__name__)

HEADERS: Final = {
    # Its pages have scripts and styles within them, so only what they can do without is forbidden.
    "Content-Security-Policy": "frame-ancestors 'none'; base-uri 'none'; form-action 'self'; object-src 'none'",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def protect() -> None:
    """Add these headers to every page, and keep what went wrong for the log. To be called once, before Flower runs."""
    set_headers, get_user, write_error = (
        BaseHandler.set_default_headers,
        BaseHandler.get_current_user,
        BaseHandler.write_error,
    )

    def set_default_headers(handler: Any) -> None:
        set_headers(handler)
        for name, value in HEADERS.items():
            handler.set_header(name, value)

    def get_current_user(handler: Any) -> Any:
        try:
            return get_user(handler)
        except TypeError:
            # It compares as text, and Python refuses that for letters beyond ASCII.
            raise HTTPError(HTTPStatus.UNAUTHORIZED) from None

    def write_plain_error(handler: Any, status_code: int, **kwargs: Any) -> None:
        if status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
            write_error(handler, status_code, **kwargs)
            return
        kind = kwargs.get("exc_info", (None,))[0]
        log.error("flower.failed", error=getattr(kind, "__name__", None))
        handler.set_header("Content-Type", "text/plain")
        handler.finish("Flower failed to handle this request; see its log.")

    BaseHandler.set_default_headers = set_default_headers
    BaseHandler.get_current_user = get_current_user
    BaseHandler.write_error = write_plain_error
