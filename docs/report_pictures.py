"""Make the pictures of docs/report.md: `python docs/report_pictures.py RUN [RUN …] [--out docs]`.

The runs are those of `quickstart.sh --compare`; the repairs of the last one are shown. Needs Chromium with its driver.
"""

import argparse
import io
import shutil
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from verl_cleaner.report.write import write_report

SIZE = (1400, 900)
COLORS = 128
"""Of a picture: enough for a page, and a third of the bytes."""
_TO_CURVES = """window.scrollTo(0, [...document.querySelectorAll("h2")].find((one) => one.textContent === "Learning")
    .getBoundingClientRect().top + window.scrollY - document.querySelector(".stays").offsetHeight - 10)"""
_REPAIRED = "inspector.index.run.findLastIndex((run, i) => run === data.runs.length - 1 && inspector.index.repaired[i])"
_MOST_REPAIRED = """(() => { const x = inspector.index, last = data.runs.length - 1;
    const repaired = (i) => inspector.group(i).filter((j) => x.run[j] === last && x.repaired[j]).length;
    return x.run.map((run, i) => i).filter((i) => x.run[i] === last && x.repaired[i] && !x.rollout[i])
        .reduce((best, i) => (repaired(i) >= repaired(best) ? i : best)); })()"""
"""The first rollout of the prompt with the most repaired rollouts, of the last run."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        write_report(options.runs, page)
        browser = _browser()
        try:
            for theme, suffix in (("light", ""), ("dark", "_dark")):
                _open(browser, page, theme, "#curves")
                _save(browser, options.out / f"report_summary{suffix}.png")
                _run(browser, _TO_CURVES)
                _save(browser, options.out / f"report_curves{suffix}.png")
                _open(browser, page, theme, "#trajectories")
                _run(browser, f"await inspector.show({_REPAIRED})")
                _run(browser, "document.querySelectorAll('details.repairs').forEach((one) => { one.open = true; })")
                _save(browser, options.out / f"report_repair{suffix}.png")
            _run(browser, f"await inspector.compare({_MOST_REPAIRED})")
            _save(browser, options.out / "report_side_dark.png")
            _open(browser, page, "light", "#trajectories")
            _run(browser, f"inspector.mode = 'tokens'; await inspector.show({_REPAIRED})")
            _save(browser, options.out / "report_tokens.png")
        finally:
            browser.quit()


def _browser() -> Any:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    width, height = SIZE
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    return browser


def _open(browser: Any, page: Path, theme: str, fragment: str) -> None:
    browser.get("about:blank")
    browser.get(page.as_uri() + fragment)
    _run(browser, f"document.documentElement.dataset.theme = '{theme}'")


def _run(browser: Any, code: str) -> None:
    """Returns when the page is drawn."""
    browser.execute_async_script(
        f"const done = arguments[0]; (async () => {{ {code} }})()"
        ".then(() => requestAnimationFrame(() => requestAnimationFrame(() => done())));"
    )


def _save(browser: Any, path: Path) -> None:
    picture = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    picture.quantize(COLORS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
