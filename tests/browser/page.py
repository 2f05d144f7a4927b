"""The web terminal as somebody at a screen has it: Debian's Chromium, driven by its own driver."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.support.processes import until

SHOTS = Path(__file__).parents[2] / "build" / "screenshots"
AXE = (Path(__file__).with_name("axe") / "axe.min.js").read_text()
SECONDS = 60  # to wait for anything: two busy cores, and a browser on them
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1200,900",
)  # fmt: skip
WATCH = "window.violated = []; addEventListener('securitypolicyviolation', (e) => violated.push([e.violatedDirective, e.blockedURI, e.sample]));"  # noqa: E501
ROWS = """
const rows = document.querySelector('.tab-panel:not([hidden]) .xterm-rows');
return rows ? [...rows.children].map((row) => row.textContent.replaceAll('\u00a0', ' ').trimEnd()).join('\\n') : '';
"""
# WCAG 2.2 at levels A and AA, and what axe's authors think right beyond it.
SERIOUS = ("moderate", "serious", "critical")
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """A browser that knows nothing yet."""
    home = Path(tempfile.mkdtemp(prefix="vmgate-chromium-"))
    downloads = home / "downloads"
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (*FLAGS, f"--user-data-dir={home / 'profile'}"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
        driver.downloads = downloads  # type: ignore[attr-defined]
        yield driver
    finally:
        driver.quit()
        shutil.rmtree(home, ignore_errors=True)


class Page:
    """The page at an address, new."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver = driver
        self.url = url
        self.downloads: Path = driver.downloads  # type: ignore[attr-defined]
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}])
        self.command("Emulation.clearDeviceMetricsOverride")
        self.command("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
        driver.set_window_size(1200, 900)
        driver.get("about:blank")
        driver.get_log("browser")
        driver.get(url)

    def command(self, name: str, **words: Any) -> Any:
        return self.driver.execute_cdp_cmd(name, words)

    def run(self, script: str, *words: Any) -> Any:
        return self.driver.execute_script(script, *words)

    # Finding and waiting.

    def all(self, selector: str) -> list[WebElement]:
        return [found for found in self.driver.find_elements(By.CSS_SELECTOR, selector) if found.is_displayed()]

    def one(self, selector: str, text: str = "") -> WebElement:
        """The one that is shown, with this text where one is given; waited for."""
        found: list[WebElement] = []

        def there() -> bool:
            found[:] = [element for element in self.all(selector) if text in (element.text, "")]
            return len(found) == 1

        self.until(there, f"one {selector} {text}")
        return found[0]

    def until(self, condition: Callable[[], object], what: str) -> None:
        def holds() -> object:
            try:
                return condition()
            except StaleElementReferenceException:
                return False  # the page drew it anew meanwhile

        try:
            until(holds, SECONDS, what)
        except AssertionError:
            self.shot("failed")
            raise

    def says(self, selector: str, words: str) -> None:
        """Something on the page comes to say this."""
        self.until(lambda: any(words in found.text for found in self.all(selector)), f"{selector}: {words}")

    def button(self, text: str, within: str = "") -> None:
        self.one(f"{within} button", text).click()

    # What somebody does.

    def sign_in(self, token: str) -> None:
        box = self.one("#token")
        box.clear()
        box.send_keys(token)
        self.one("#sign-in-form button").click()

    def terminal(self, instance: str = "alpha") -> None:
        """Another terminal, up to its prompt."""
        tabs = len(self.all(".tab"))
        self.one(f"[aria-label='Terminal in {instance}']").click()
        self.until(lambda: len(self.all(".tab")) == tabs + 1, "another tab")
        self.one(".panel[data-state='running']")
        self.until(lambda: self.screen.rstrip().endswith(("#", "$")), "a prompt")

    def type(self, words: str) -> None:
        """Into whatever has the focus, which must be a terminal by itself."""
        self.until(lambda: self.run("return document.activeElement.closest('.screen') !== null"), "a focused terminal")
        self.driver.switch_to.active_element.send_keys(words)

    def line(self, words: str) -> None:
        self.type(words + "\n")

    @property
    def screen(self) -> str:
        """What the terminal in front shows."""
        return str(self.run(ROWS))

    def shows(self, words: str) -> None:
        self.until(lambda: words in self.screen, f"{words!r} on the screen")

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns that the page tells of the terminal in front."""
        cols, rows = self.one(".size").text.split(" × ")
        return int(rows), int(cols)

    def files(self, instance: str = "alpha") -> None:
        self.one(f"[aria-label='Files of {instance}']").click()
        self.one("#files")

    def drop(self, selector: str, *paths: Path) -> None:
        """Files from outside of the browser, as a file manager drops them."""
        place = self.one(selector).rect
        x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.command("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def window(self, width: int, height: int, zoom: float = 1) -> None:
        """A window of so many CSS pixels, magnified."""
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=zoom, mobile=False
        )

    def prefers(self, scheme: str) -> None:
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    # What is judged.

    def shot(self, name: str) -> None:
        """Kept under build/, to be looked at."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(SHOTS / f"{name}.png"))

    def faults(self) -> list[str]:
        """What axe finds wrong."""
        self.command("Runtime.evaluate", expression=AXE)
        script = (
            "axe.run(document, arguments[0]).then(arguments[1], (why) => arguments[1]({violations: [String(why)]}))"
        )
        done = self.driver.execute_async_script(script, RULES)
        return [
            json.dumps({"rule": fault["id"], "impact": fault["impact"], "nodes": [n["html"] for n in fault["nodes"]]})
            for fault in done["violations"]
            if fault["impact"] in SERIOUS
        ]

    def overflow(self) -> int:
        """Pixels by which the page is wider than its window."""
        return int(self.run("const e = document.documentElement; return e.scrollWidth - e.clientWidth;"))

    def violations(self) -> list[Any]:
        """What the Content-Security-Policy forbade."""
        return list(self.run("return window.violated"))

    def errors(self) -> list[str]:
        """What the page's scripts did wrong; that a request was refused is no error of theirs."""
        log = self.driver.get_log("browser")
        return [entry["message"] for entry in log if entry["level"] == "SEVERE" and entry["source"] != "network"]
