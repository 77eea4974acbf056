"""The interactive document of the task API at `/docs`: Swagger UI, served from here and from no other host.

Only the files of `fastapi-offline` are borrowed. Its own page, like FastAPI's, has a script within it, which the
security policy of our pages forbids; the page here has none.
"""

from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from http import HTTPStatus
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from fastapi import APIRouter, HTTPException
from starlette.responses import HTMLResponse, Response

PLACE: Final = "docs"
HEADERS: Final[Mapping[str, str]] = {
    # Swagger UI draws its signs from data: addresses within its stylesheet. Nothing else comes from elsewhere.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}
YEAR_SECONDS: Final = 365 * 24 * 3600

_HERE: Final = Path(__file__).parent
_BORROWED: Final = files("fastapi_offline") / "static"
_FILES: Final[Mapping[str, tuple[Traversable, str]]] = {
    "swagger-ui-bundle.js": (_BORROWED / "swagger-ui-bundle.js", "text/javascript"),
    "swagger-ui.css": (_BORROWED / "swagger-ui.css", "text/css"),
    "manual.js": (_HERE / "manual.js", "text/javascript"),
    "ulak.svg": (_HERE / "pages" / "static" / "ulak.svg", "image/svg+xml"),
}
# Addresses are relative, so that the page also works behind a proxy that puts a folder before it.
_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Task API · Ulak</title>
<link rel="icon" type="image/svg+xml" href="{ulak.svg}">
<link rel="stylesheet" href="{swagger-ui.css}">
<script src="{swagger-ui-bundle.js}" defer></script>
<script src="{manual.js}" defer></script>
</head>
<body>
<div id="swagger-ui"></div>
<noscript>This page needs JavaScript. The document itself does not: <a href="openapi.json">openapi.json</a></noscript>
</body>
</html>
"""

router = APIRouter(include_in_schema=False, default_response_class=Response)


@router.get("/" + PLACE)
def show() -> Response:
    """The page."""
    return HTMLResponse(_page(), headers=dict(HEADERS))


@router.get(f"/{PLACE}/{{name}}")
def load(name: str) -> Response:
    """A file of the page."""
    if name not in _FILES:
        raise HTTPException(HTTPStatus.NOT_FOUND, "There is no such file.")
    file, media_type = _FILES[name]
    kept = {"Cache-Control": f"public, max-age={YEAR_SECONDS}, immutable"}
    return Response(file.read_bytes(), media_type=media_type, headers=dict(HEADERS) | kept)


@cache
def _page() -> str:
    """The page with each file's content in its address: a browser keeps a file until it changes."""
    page = _PAGE
    for name, (file, _) in _FILES.items():
        page = page.replace("{" + name + "}", f"{PLACE}/{name}?v={sha256(file.read_bytes()).hexdigest()[:12]}")
    return page
