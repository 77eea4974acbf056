"""The documents: each link leads somewhere, each page is in the site, each page that the code names exists.

`make site` checks the anchors.
"""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
LINK: Final = re.compile(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)")
MENTION: Final = re.compile(r"(?<![\w./-])docs/[\w./-]+\.md")
CODE_SPAN: Final = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


def test_each_relative_link_leads_to_a_file() -> None:
    """Pages, pictures and files alike, from every document."""
    dead = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in tracked("*.md")
        for target in LINK.findall(CODE_SPAN.sub("", page.read_text(encoding="utf-8")))
        if "://" not in target and not target.startswith("mailto:") and not (page.parent / target).is_file()
    ]
    assert not dead


def test_each_page_that_is_named_anywhere_exists() -> None:
    """In messages, comments, settings and rules; the changelog too."""
    mentions = {
        (str(path.relative_to(ROOT)), page)
        for path in tracked()
        if path.suffix in {".py", ".md", ".yml", ".yaml", ".toml", ".example", ".html", ".service"}
        for page in MENTION.findall(path.read_text(encoding="utf-8"))
    }
    assert len(mentions) > 20
    assert not {(path, page) for path, page in mentions if not (ROOT / page).is_file()}


def test_each_page_is_in_the_site_once() -> None:
    """Decisions are reached from their list."""
    site = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
    listed = list(pages_of(site["nav"]))
    assert len(listed) == len(set(listed))
    documents = {str(path.relative_to(ROOT)) for path in tracked("*.md")}
    assert documents - set(listed) == {page for page in documents if re.match(r"docs/decisions/\d", page)}


def tracked(pattern: str = "*") -> list[Path]:
    """The files of the repository that match."""
    listed = subprocess.run(["git", "ls-files", "-z", pattern], cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def pages_of(entries: object) -> list[str]:
    """The pages of a navigation, nested or not."""
    match entries:
        case str():
            return [entries]
        case list():
            return [page for each in entries for page in pages_of(each)]
        case dict():
            return [page for each in entries.values() for page in pages_of(each)]
    raise TypeError(entries)
