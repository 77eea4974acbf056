"""The texts of the status page: two catalogues that match, and no text anywhere else."""

import re
from html.parser import HTMLParser
from pathlib import Path
from string import Formatter

import pytest

from ulak.api.masking import mask
from ulak.api.pages import texts_en, texts_tr, tooltips
from ulak.api.pages.language import CATALOGUES, Language, choose
from ulak.api.pages.rendering import Show, environment
from ulak.models.account import AccountState
from ulak.models.events import Action, Kind
from ulak.models.meanings import COLUMNS, Outcome, TimeSource
from ulak.models.merge import KEY_PARTS
from ulak.models.rejections import Rejection
from ulak.models.vocabulary import Granularity, Reason, Source, Status
from ulak.tasks.steps.failures import OUTCOMES, REQUEST_FAILED

PAGES = Path(texts_en.__file__).parent
TEMPLATES = sorted((PAGES / "templates").glob("*.html"))
SPOKEN = {"title", "placeholder", "aria-label", "alt", "value", "content"}


def placeholders(pattern: str) -> set[str | None]:
    """The names that a text is filled with."""
    return {name for _, name, _, _ in Formatter().parse(pattern) if name is not None}


def test_both_languages_have_the_same_texts() -> None:
    """The same keys in the same order, each with the same placeholders, and none left empty."""
    assert list(texts_en.TEXTS) == list(texts_tr.TEXTS)
    names = {key: placeholders(pattern) for key, pattern in texts_en.TEXTS.items()}
    assert {key: placeholders(pattern) for key, pattern in texts_tr.TEXTS.items()} == names
    assert all(text.strip() == text != "" for texts in CATALOGUES.values() for text in texts.values())


def test_every_tooltip_is_there_in_both_languages() -> None:
    """Each word and column that has a meaning has one in Turkish, in the same order, and as a sentence."""
    english, turkish = tooltips.ENGLISH, tooltips.TURKISH
    assert list(english) == list(turkish)
    assert [key for key, sentence in turkish.items() if sentence[-1] != "." or sentence == english[key]] == []
    groups = {"status": Status, "reason": Reason, "source": Source, "granularity": Granularity}
    words = {f"means.{group}.{word}" for group, kind in groups.items() for word in kind}
    words |= {f"means.message_time_source.{word}" for word in TimeSource} | {f"means.field.{name}" for name in COLUMNS}
    assert english.keys() == words


def test_turkish_is_not_english() -> None:
    """Only names and bare patterns may read alike."""
    same = {key for key, pattern in texts_en.TEXTS.items() if texts_tr.TEXTS[key] == pattern}
    shared = {"brand", "language.en", "language.tr", "nav.flower", "nav.docs", "time.utc"}
    assert same == shared | {"account.by", "account.trouble_at", "trigger.api"}


@pytest.mark.parametrize("code", sorted(CATALOGUES))
def test_every_word_of_ours_has_a_text(code: str) -> None:
    """A status, reason, source, kind, state or part of a merge key that an update adds must be named here too."""
    groups = {"status": Status, "reason": Reason, "source": Source, "granularity": Granularity, "state": AccountState}
    groups |= {"rejected": Rejection, "message_time_source": TimeSource, "action": Action, "actor": Kind}
    groups |= {"outcome": Outcome, "kind": Granularity}
    words = {f"{group}.{word.value.replace(' ', '_')}" for group, kind in groups.items() for word in kind}
    words |= {f"call.{outcome}" for outcome in {*OUTCOMES.values(), REQUEST_FAILED} - {"later"}}
    words |= {f"lost.{part}" for parts in KEY_PARTS.values() for part in parts}
    assert words - CATALOGUES[code].keys() == set()


class Bare(HTMLParser):
    """Collects what a template says without asking the catalogue."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_data(self, data: str) -> None:
        if re.search(r"[^\W\d_]", data):
            self.found.append(data.strip())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        spoken = dict(attrs) if tag != "meta" else {}
        self.found += [value for name, value in spoken.items() if name in SPOKEN and value and value.strip("0 ·")]


def bare_texts(template: str) -> list[str]:
    """Texts and spoken attributes that stand in a template itself; what Jinja fills in becomes 0."""
    template = re.sub(r"\{#.*?#\}|\{%.*?%\}", "", template, flags=re.DOTALL)
    parser = Bare()
    parser.feed(re.sub(r"\{\{.*?\}\}", "0", template, flags=re.DOTALL))
    return parser.found


def test_the_search_for_bare_text_finds_some() -> None:
    """A search that finds nothing anywhere would prove nothing."""
    assert bare_texts('<p title="Say">{{ t("x") }} Merhaba {# no #}</p><input placeholder="{{ a }}">') == [
        "Say",
        "0 Merhaba",
    ]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_templates_hold_no_text_of_their_own(path: Path) -> None:
    """Every word comes from a catalogue, attributes that are read aloud too."""
    assert bare_texts(path.read_text(encoding="utf-8")) == []


def test_templates_and_code_ask_only_for_texts_that_there_are_and_leave_none_unused() -> None:
    """A key that is asked for by its whole name exists; one that nobody asks for is gone."""
    sources = [
        path.read_text(encoding="utf-8")
        for path in [*TEMPLATES, *PAGES.glob("*.py"), PAGES.parent / "notify" / "message_texts.py"]
        if "texts_" not in path.name
    ]
    asked = set(re.findall(r"""(?:\bt|say|html)\(\s*["']([a-z_.]*[a-z_])["']\s*[,)]""", "\n".join(sources)))
    assert asked - texts_en.TEXTS.keys() == set()
    parts = set(re.findall(r"[a-z_]+(?:\.[a-z_]+)*", "\n".join(sources)))
    groups = "alarm state status rejected reason source granularity field lost trigger poll language notice span"
    more = "message_time_source action actor sso sentence config call outcome kind results polls.show"
    made = tuple(f"{group}." for group in [*groups.split(), *more.split()])
    unused = [
        key
        for key in texts_en.TEXTS
        if not key.startswith(made) and not {key, key.removesuffix(".one"), key.removesuffix(".why")} & parts
    ]
    assert unused == []


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_every_template_compiles(path: Path) -> None:
    """A slip in one is found before somebody opens its page."""
    assert environment().get_template(path.name).name == path.name


@pytest.mark.parametrize(
    ("chosen", "accepted", "code"),
    [
        (None, None, "en"), (None, "", "en"), (None, "tr", "tr"), (None, "TR-tr,en;q=0.9", "tr"),
        (None, "en,tr", "en"), (None, "tr;q=0", "en"), (None, "de,tr;q=0.1", "tr"), (None, ";;;,=,q", "en"),
        ("tr", "en", "tr"), ("xx", "tr", "tr"), ("", "tr", "tr"), (None, "tr;q=inf", "tr"), (None, "tr;q=nan,en", "en"),
    ],
)  # fmt: skip
def test_the_language_is_the_best_that_there_is(chosen: str | None, accepted: str | None, code: str) -> None:
    """What was chosen, else the heaviest wish that can be met, else English; nonsense is no wish."""
    assert choose(chosen, accepted).code == code


def test_values_are_escaped_and_commands_stand_out() -> None:
    """A provider's text can bring no markup; a command of ours in backticks becomes code."""
    english = Language("en")
    assert english.html("alarm.paused", account="a", reason="<b>`x`") == (
        "a is paused until it is resumed manually: &lt;b&gt;`x`"
    )
    assert "<code>ulak check</code>" in english.html("error.away.fix")
    assert (english.say("alarm.dead", n=1, account="a"), english.say("alarm.dead", n=2, account="a")) == (
        "One request of a failed permanently.",
        "2 requests of a failed permanently.",
    )


@pytest.mark.parametrize(
    ("recipient", "shown"),
    [
        ("+905301234567", "+90•••••••67"),
        ("5301234567", "•••••••67"),
        ("c2f1a9d0e4", "•••••••e4"),
        ("12345", "•••••"),
        ("", ""),
        (None, ""),
    ],
)
def test_a_list_shows_a_number_by_its_ends(recipient: str | None, shown: str) -> None:
    """Enough to tell two hits apart, too little to call anybody."""
    assert mask(recipient) == shown


@pytest.mark.parametrize(
    ("seconds", "told"), [(-1, "0 sn"), (59.9, "59 sn"), (60, "1 dk"), (7199, "1 sa"), (2e5, "2 gün")]
)
def test_a_span_is_told_in_its_largest_unit(seconds: float, told: str) -> None:
    """Rounded down."""
    assert Show(Language("tr")).span(seconds) == told
