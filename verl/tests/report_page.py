"""Headless Chromium, and the report opened in it. The fixture `browser` is in conftest.py."""

import shutil
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait


def start():
    """A driver; skips the test where there is no Chromium."""
    chromium, driver_path = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver_path):
        pytest.skip("needs Chromium with its driver (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(driver_path))
    media(driver)
    return driver


def media(driver, kind=""):
    still = [{"name": "prefers-reduced-motion", "value": "reduce"}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": kind, "features": still})


class Page:
    def __init__(self, browser, path: Path | str, fragment="", size=(1400, 900)):
        """path: of a file, or an address."""
        self.browser = browser
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get("about:blank")
        browser.get_log("performance")
        browser.get(f"{path if isinstance(path, str) else path.as_uri()}{fragment}")
        self.wait(lambda: self.script("return document.documentElement.dataset.ready"))

    def script(self, code, *arguments):
        return self.browser.execute_script(code, *arguments)

    def all(self, selector):
        return [node for node in self.browser.find_elements(By.CSS_SELECTOR, selector) if node.is_displayed()]

    def one(self, selector, containing=""):
        return self.wait(lambda: next((node for node in self.all(selector) if containing in node.text), None))

    def wait(self, condition):
        replaced = (StaleElementReferenceException,)
        waiting = WebDriverWait(self.browser, 20, poll_frequency=0.02, ignored_exceptions=replaced)
        return waiting.until(lambda _: condition())

    def press(self, keys):
        self.browser.switch_to.active_element.send_keys(keys)

    def pick(self, name, text):
        Select(self.one(f"#filters [name={name}]")).select_by_visible_text(text)

    def found(self, count):
        self.wait(lambda: self.one("#found").text.split()[0] == str(count))

    def errors(self):
        """What the console says, and every request that left the file."""
        errors = [entry["message"] for entry in self.browser.get_log("browser") if entry["level"] == "SEVERE"]
        requests = [
            entry["message"] for entry in self.browser.get_log("performance") if "requestWillBeSent" in entry["message"]
        ]
        return errors + [text for text in requests if '"url":"http' in text]
