"""The status page as people use it: clicked in Chromium, on a desktop and on a telephone, while everything runs."""

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from running import ROOT, RunningUlak, ask, running
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait
from sqlalchemy import text

pytestmark = [pytest.mark.host, pytest.mark.timeout(400)]

SCREENSHOTS = os.environ.get("ULAK_TEST_SCREENSHOTS")
"""A folder to keep pictures in."""
DESKTOP, PHONE = (1280, 860), (390, 844)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars --lang=en"
)


class Window:
    """A browser window."""

    def __init__(self, driver: Chrome, home: str) -> None:
        self.driver, self.home = driver, home

    def open(self, path: str) -> None:
        """Go to a page."""
        self.driver.get(self.home + path)

    def all(self, selector: str) -> list[WebElement]:
        """What matches now."""
        found: list[WebElement] = self.driver.find_elements(By.CSS_SELECTOR, selector)
        return found

    def one(self, selector: str) -> WebElement:
        """The first that matches."""
        found: WebElement = self.until(lambda: next(iter(self.all(selector)), None), f"{selector} is there")
        return found

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 30) -> Any:
        """The first true value of the condition."""
        return WebDriverWait(self.driver, seconds, poll_frequency=0.2).until(lambda _: _settled(condition), what)

    def press(self, selector: str) -> None:
        """Click, and wait for the page it leads to."""
        element = self.one(selector)
        self.driver.execute_script(
            "window.isLeft = true; arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element
        )
        element.click()
        arrived = "return !window.isLeft && document.readyState === 'complete'"
        self.until(lambda: self.driver.execute_script(arrived), f"a page after {selector}")

    def unfold(self, selector: str) -> None:
        """Open a folded part of the page."""
        summary = self.one(f"{selector} > summary")
        centre = "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})"
        self.driver.execute_script(centre, summary)
        summary.click()

    def words(self) -> str:
        """What stands on the page."""
        return str(self.one("body").text)

    def picture(self, name: str) -> None:
        """Keep what is seen, where somebody wants it."""
        if SCREENSHOTS is None:
            return
        self.driver.execute_script("document.activeElement?.blur(); window.scrollTo(0, 0)")
        self.driver.save_screenshot(str(ROOT / SCREENSHOTS / f"{name}.png"))

    def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        wide: int = self.driver.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
        return wide

    def complaints(self) -> list[str]:
        """What the browser found wrong: refused resources, errors of the script."""
        return [each["message"] for each in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]


def _settled(condition: Callable[[], Any]) -> Any:
    """The condition's value; what the page replaced meanwhile is no answer."""
    try:
        return condition()
    except WebDriverException:
        return None


@pytest.fixture(scope="module")
def ulak() -> Iterator[RunningUlak]:
    """Everything, with five stand-in providers."""
    with (
        tempfile.TemporaryDirectory(prefix="ulak-pages-") as folder,
        running(Path(folder), "--no-flower") as started,
    ):
        started.wait_ready()
        started.until(lambda: answers(started.address("Page")), seconds=30, what="the API")
        yield started


def answers(address: str) -> bool:
    """Whether the HTTP process is up."""
    try:
        return bool(ask(f"{address}/healthz"))
    except OSError:
        return False


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Debian's Chromium with an empty profile."""
    options = ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = Chrome(options=options, service=ChromeService("/usr/bin/chromedriver"))
    yield made
    made.quit()


def window(driver: Chrome, ulak: RunningUlak, size: tuple[int, int]) -> Window:
    """A window of that size, logged out."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE},
    )
    parts = urlsplit(ulak.address("Page"))
    made = Window(driver, f"http://{parts.netloc}")
    made.open("/")
    driver.delete_all_cookies()
    made.open("/")
    return made


def log_in(page: Window, ulak: RunningUlak) -> None:
    """With the token that was generated into the home."""
    page.one("#token").send_keys((ulak.home / "secrets" / "api_token").read_text().strip())
    page.press(".login button.main")


def value(ulak: RunningUlak, query: str) -> Any:
    """A value of the database."""
    with ulak.engine().connect() as connection:
        return connection.execute(text(query)).scalar()


def test_an_operator_sees_accounts_move_and_pauses_one(driver: Chrome, ulak: RunningUlak) -> None:
    """Log in; numbers change without a reload; pause with a reason, see it said, resume."""
    page = window(driver, ulak, DESKTOP)
    assert "account" not in page.words().lower().replace("accounts file", "")
    log_in(page, ulak)
    assert len(page.all("article.card")) == 5
    page.unfold("#machinery")
    driver.execute_script("window.isTheSamePage = true")
    before = [each.text for each in page.all(".facts dd.number")]
    assert all(before)
    page.until(lambda: [each.text for each in page.all(".facts dd.number")] != before, "other numbers", 60)
    assert page.one("#machinery").get_attribute("open") is not None
    assert driver.execute_script("return window.isTheSamePage") is True
    account = value(ulak, "SELECT id FROM accounts WHERE provider = 'vairo'")
    page.press(f"#account-{account} .buttons a[href$='#pause']")
    page.one("#reason").send_keys("provider says maintenance")
    page.press("#pause button.danger")
    assert "provider says maintenance (configured, " in page.words()
    page.press("header nav a[href='/']")
    assert f"{account} is paused until it is resumed manually: provider says maintenance" in page.words()
    page.picture("overview")
    page.press(".alarms form button")
    assert "The account is resumed" in page.words()
    page.unfold("#machinery")
    page.press(f"#account-{account} .buttons form[action$='/poll'] button")
    assert "A poll was opened" in page.words()
    page.press("header nav a[href='/polls']")
    assert "this page" in page.words()
    page.picture("polls")
    assert page.overflow() <= 0
    assert page.complaints() == []


def test_support_finds_a_delivery_and_reads_its_history(driver: Chrome, ulak: RunningUlak) -> None:
    """By a number as people write it; list and delivery mask it until it is revealed; what won and why."""
    told = (
        "SELECT recipient FROM delivery_status d WHERE recipient LIKE '+905%' AND is_final AND granularity = 'message'"
    )
    several = f"{told} AND (SELECT count(*) FROM observations o WHERE o.delivery_id = d.id) > 1"
    number = ulak.until(lambda: value(ulak, f"{several} ORDER BY id LIMIT 1"), seconds=90, what="a delivery that moved")
    page = window(driver, ulak, DESKTOP)
    log_in(page, ulak)
    page.press("header nav a[href='/deliveries']")
    digits = number.removeprefix("+90")
    page.one("#recipient").send_keys(f"0{digits[:3]} {digits[3:6]} {digits[6:8]} {digits[8:]}")
    page.press(".search button.main")
    assert digits not in driver.current_url
    rows = page.all("table.rows tbody tr")
    assert rows
    assert all(number not in row.text and "•••••••" in row.text for row in rows)
    row = value(ulak, f"{several} AND recipient = '{number}' ORDER BY id LIMIT 1".replace("recipient", "id", 1))
    page.press(f"table.rows a[href='/deliveries/{row}']")
    assert number not in page.words()
    page.press(f"form[action='/deliveries/{row}/reveal'] button")
    assert number in page.words()
    assert number not in driver.title + driver.current_url
    assert len(page.all(".line li")) > 1
    assert len(page.all(".line li.won")) == 1
    assert "This report decides the status" in page.words()
    page.picture("delivery")
    driver.back()
    driver.back()
    assert page.all("table.rows tbody tr")
    assert page.complaints() == []


def test_everything_works_on_a_telephone_in_turkish_and_without_javascript(driver: Chrome, ulak: RunningUlak) -> None:
    """No page is wider than a small screen, buttons are large enough for a thumb, and the switch speaks Turkish."""
    page = window(driver, ulak, PHONE)
    log_in(page, ulak)
    row = ulak.until(lambda: value(ulak, "SELECT max(id) FROM delivery_status"), seconds=60, what="a delivery")
    account = value(ulak, "SELECT min(id) FROM accounts")
    for path in ("/", "/results", f"/accounts/{account}", "/polls", "/deliveries", f"/deliveries/{row}"):
        page.open(path)
        assert page.overflow() <= 0, path
        small = [each for each in page.all("main button, main .button") if 0 < each.size["height"] < 44]
        assert [each.text for each in small] == []
    page.open("/")
    page.picture("phone")
    page.press(".languages button[value='tr']")
    assert re.search("Her şey yolunda|Sorunlar ve yapılacaklar", page.words())
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.open(f"/deliveries/{row}")
        assert "Geçmiş" in page.words()
        assert re.search(r"\d+ \w{3},? .*\d\d:\d\d:\d\d", page.words())
        page.press(".aside form[action='/logout'] button")
        assert "Anahtar" in page.words()
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert page.complaints() == []


def test_the_document_of_the_api_is_drawn_without_another_host(driver: Chrome, ulak: RunningUlak) -> None:
    """Swagger UI shows every operation and can be tried with a token; everything that it loads comes from here."""
    page = window(driver, ulak, DESKTOP)
    page.open("/docs")
    page.one(".opblock-tag")
    assert "/v1/polls" in page.words()
    page.one(".btn.authorize").click()
    page.one(".auth-container input").send_keys((ulak.home / "secrets" / "api_token").read_text().strip())
    page.one(".auth-container .authorize").click()
    page.one(".auth-btn-wrapper .btn-done").click()
    page.one("[id$='search_v1_polls_get'] .opblock-summary-control").click()
    page.one(".try-out__btn").click()
    page.one(".execute").click()
    assert page.one(".live-responses-table tbody .response-col_status").text.startswith("200")
    loaded = "return performance.getEntriesByType('resource').map((each) => new URL(each.name).host)"
    assert set(driver.execute_script(loaded)) == {urlsplit(page.home).netloc}
    assert page.complaints() == []
