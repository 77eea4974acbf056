"""Where a form leads afterwards: always to a page of this host."""

from urllib.parse import urljoin, urlsplit

from hypothesis import example, given
from hypothesis import strategies as st
from starlette.responses import RedirectResponse

from ulak.api.pages.visits import local_path

HOST = "ulak.example"
_PIECES = st.sampled_from(
    ["/", "//", "\\", "[", "]", "@", ":", "?", "#", ".", "..", "%2f", "https:", "evil.example", "\t"]
)
_ADDRESSES = st.text() | st.lists(_PIECES | st.characters(), max_size=12).map("".join) | st.lists(_PIECES).map("".join)


@given(_ADDRESSES)
@example("//[")
@example("//evil.example")
@example("/\\evil.example")
@example("/\t/evil.example")
@example("https://[")
def test_no_text_leads_to_another_host_or_raises(wanted: str) -> None:
    """Neither the address nor the redirect that is made of it; a browser reads a backslash as a slash."""
    path = local_path(wanted)
    for target in (path, RedirectResponse(path).headers["location"]):
        joined = urlsplit(urljoin(f"https://{HOST}/login", target.replace("\\", "/")))
        assert (joined.scheme, joined.netloc) == ("https", HOST)


@given(st.text(st.characters(categories=["L", "N"]), min_size=1))
def test_a_page_of_this_host_is_kept(word: str) -> None:
    """With its query."""
    assert local_path(f"/deliveries?q={word}") == f"/deliveries?q={word}"
