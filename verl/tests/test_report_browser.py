"""The report in headless Chromium: filters, repairs, tokens, two runs, hostile text, size and first view."""

import shutil

import pytest
from report_data import HOSTILE, write_run
from report_page import Page
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from verl_cleaner.inspect import main as inspect
from verl_cleaner.report.write import write_report


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A baseline and a run with repairs and hostile texts in one report."""
    folder = tmp_path_factory.mktemp("compared")
    write_run(folder / "baseline", rollback=False)
    write_run(folder / "cleaner", extra=HOSTILE)
    out = folder / "report.html"
    assert write_report([folder], out) == []
    return out


CHARTS = (
    "Held-out accuracy", "Tool failures a trajectory", "Recovery rate", "Overwritten share", "Purification gap",
    "Tokens", "Failure kinds", "Retries a turn", "Similarity of failed and new call", "Time of a step, by phase",
)  # fmt: skip


def test_curves_of_both_runs_and_one_hidden(browser, compared):
    page = Page(browser, compared)
    titles = [node.text for node in page.all(".card h3")]
    for title in CHARTS:
        assert title in titles
    lines = "return [...document.querySelectorAll('.card')][arguments[0]].querySelectorAll('.line').length"
    accuracy = titles.index("Training accuracy")
    assert page.script(lines, accuracy) == 2
    page.one(".run-chip", "baseline").click()
    assert page.script(lines, accuracy) == 1
    chart = page.all(".card svg")[accuracy]
    assert "Training accuracy. At the end: cleaner" in chart.get_attribute("aria-label")
    page.script("arguments[0].focus()", chart)
    page.press(Keys.ARROW_RIGHT)
    assert "step 0\n40.0 %" in page.one(".readout").text.replace("cleaner ", "")
    page.one(".card summary", "Data").click()
    page.one(".card table")
    page.one(".explorer input").send_keys("timing_s/update_actor")
    page.one(".card h3", "timing_s/update_actor")
    page.script("document.activeElement.blur()")
    page.press("?")
    page.one("#help dt", "j")
    page.press(Keys.ESCAPE)
    color = "return getComputedStyle(document.body).backgroundColor"
    before = page.script(color)
    page.one("#theme").click()
    assert page.script(color) != before
    page.one("#theme").click()
    assert page.script(color) == before
    assert page.errors() == []


def test_every_run_of_many_has_a_line_of_its_own(browser, tmp_path):
    for number in range(10):
        write_run(tmp_path / f"run{number}", steps=1, prompts=1, rollouts=1, tokens=False)
        shutil.rmtree(tmp_path / f"run{number}" / "rollouts")
    write_report([tmp_path], tmp_path / "report.html")
    page = Page(browser, tmp_path / "report.html")
    read = "const s = getComputedStyle(arguments[0]); return s.stroke + ' ' + s.strokeDasharray"
    card = next(card for card in page.all(".card") if "Held-out" in card.text)
    lines = [page.script(read, line) for line in card.find_elements(By.CSS_SELECTOR, "polyline.line")]
    assert len(set(lines)) == len(lines) == 10
    assert not any(line.startswith("none") for line in lines)


def test_filters_narrow_the_list(browser, compared):
    page = Page(browser, compared, "#trajectories")
    page.found(96)
    page.pick("repaired", "yes")
    page.found(24)
    page.pick("step", "2")
    page.found(8)
    page.pick("kind", "NameError")
    page.found(8)
    page.pick("outcome", "right")
    right = int(page.one("#found").text.split()[0])
    page.pick("outcome", "wrong")
    page.found(8 - right)
    for name in ("repaired", "step", "kind", "outcome"):
        page.pick(name, "all")
    page.one("#filters [name=text]").send_keys("print(302 + 1)")
    page.found(2)  # one in each run
    page.pick("run", "cleaner")
    page.found(1)
    assert page.errors() == []


def test_a_repair_behind_one_click_and_its_tokens(browser, compared):
    page = Page(browser, compared, "#trajectories")
    page.pick("run", "cleaner")
    page.pick("step", "3")
    page.pick("repaired", "yes")
    page.found(8)
    page.script("document.activeElement.blur()")
    page.press("j")
    assert "call overwritten" in page.one(".message.repaired h4").text
    assert not page.all(".diff")
    page.one(".repairs summary").click()
    assert "NameError at line 1" in page.one(".repairs .error").text
    assert "similarity 0.90" in page.one(".repairs .meter").text
    assert "prnt(" in page.one(".diff del").text
    assert page.one(".diff ins mark").text == "i"
    address = browser.current_url
    page.one(".switch button", "tokens").click()
    assert len(page.all(".token.over")) == 6
    page.script("document.querySelector('.token-box').focus()")
    page.press(Keys.ARROW_RIGHT)
    info = page.one(".token-info").text
    assert "token 0" in info
    assert "trained on" in info
    assert "advantage 0.7" in info
    again = Page(browser, compared, "#" + address.partition("#")[2])
    assert "call overwritten" in again.one(".message.repaired h4").text
    assert again.errors() == []


def test_rollouts_of_one_prompt_side_by_side_over_both_runs(browser, compared):
    page = Page(browser, compared, "#trajectories")
    page.pick("step", "2")
    page.found(32)
    page.script("document.activeElement.blur()")
    page.press("j")
    page.one(".detail .prose")
    page.press("g")
    page.wait(lambda: len(page.all(".column")) == 8)
    assert {node.text.split()[-3] for node in page.all(".column h3")} == {"baseline", "cleaner"}
    page.press(Keys.ESCAPE)
    page.one(".detail .switch")
    page.press(Keys.ESCAPE)
    page.one(".detail .hint", "Pick a trajectory")
    assert page.errors() == []


def test_configurations_and_their_differences(browser, compared):
    page = Page(browser, compared)
    page.script("document.activeElement.blur()")
    page.press("3")
    table = page.one(".config").text
    assert "rollback False True" in table
    assert "seed" not in table
    assert "hunter2" not in browser.page_source
    assert page.errors() == []


def test_hostile_text_is_only_text(browser, compared):
    page = Page(browser, compared, "#trajectories")
    title = browser.title
    page.pick("run", "cleaner")
    page.pick("step", "1")
    page.found(16)
    for i in range(16):
        page.script("return inspector.show(inspector.found[arguments[0]])", i)
        page.wait(lambda: page.all(".detail .call"))
        page.script("document.querySelectorAll('.detail details').forEach((one) => { one.open = true; })")
        for mode in ("tokens", "conversation"):
            page.script("inspector.setMode(arguments[0])", mode)
            page.wait(lambda mode=mode: page.all(".token-box" if mode == "tokens" else ".detail .call"))
    shown = "\n".join(
        page.script("await inspector.show(inspector.found[arguments[0]]); return inspector.detail.innerText", i)
        for i in range(16)
    )
    assert "<script>document.title='owned'</script>" in shown
    assert "␛[31mred␛[0m" in shown
    assert "U+202E" in shown
    assert "characters left out" in shown
    assert "\u202e" not in shown
    assert "\x1b" not in shown
    assert browser.title == title
    assert not page.script("return document.querySelectorAll('main script, main img, main iframe').length")
    assert page.errors() == []
    # Even markup that came through could not run: the policy allows the page's own script only.
    page.script("document.body.insertAdjacentHTML('beforeend', '<img src=data:x onerror=\"window.owned = 1\">')")
    page.script("document.body.append(Object.assign(document.createElement('script'), { text: 'window.owned = 1' }))")
    page.wait(lambda: len(page.errors()) >= 2)
    assert page.script("return window.owned") is None


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast_is_enough_to_read(browser, compared, theme):
    """WCAG AA: 4.5 for all text."""
    page = Page(browser, compared, "#trajectories")
    page.script("document.documentElement.dataset.theme = arguments[0]; inspector.filter()", theme)
    page.script("return inspector.show(inspector.index.repaired.indexOf(1))")
    page.one(".message.repaired")
    page.script("document.querySelectorAll('.detail details').forEach((one) => { one.open = true; })")
    assert page.script(LOW_CONTRAST) == []
    page.script("location.hash = 'curves'")
    page.one(".card")
    assert page.script(LOW_CONTRAST) == []


LOW_CONTRAST = """
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const parse = (color) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); const d = canvas.getImageData(0, 0, 1, 1).data; return [d[0], d[1], d[2], d[3] / 255]; };
const over = (top, base) => top.slice(0, 3).map((v, i) => v * top[3] + base[i] * (1 - top[3])).concat(1);
const light = (c) => { const [r, g, b] = c.map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const behind = (node) => { const chain = []; for (let n = node; n; n = n.parentElement) chain.unshift(parse(getComputedStyle(n).backgroundColor)); return chain.reduce((base, top) => over(top, base), [255, 255, 255, 1]); };
const low = [];
for (const node of document.querySelectorAll("body *")) {
  if (!node.checkVisibility() || ![...node.childNodes].some((c) => c.nodeType === 3 && c.textContent.trim())) continue;
  const style = getComputedStyle(node), base = behind(node), ink = over(parse(node.closest("svg") ? style.fill : style.color), base);
  const [a, b] = [light(ink), light(base)].sort((x, y) => y - x), ratio = (a + 0.05) / (b + 0.05);
  if (ratio < 4.5) low.push([node.className.baseVal ?? node.className, node.textContent.slice(0, 30), ratio.toFixed(2)]);
}
return low;
"""  # noqa: E501


def test_on_a_phone(browser, compared):
    page = Page(browser, compared, "#trajectories", size=(390, 844))
    assert page.all(".row")
    assert not page.all(".detail")
    page.all(".row")[0].click()
    page.one(".detail .call")
    assert not page.all(".row")
    page.one(".back").click()
    assert page.all(".row")
    for tab in ("curves", "trajectories", "config"):
        page.script("location.hash = arguments[0]", tab)
        page.one(f"#view-{tab}")
        assert page.script("return document.documentElement.scrollWidth") <= 390


def test_every_control_has_a_name(browser, compared):
    page = Page(browser, compared, "#trajectories")
    page.script("return inspector.show(0)")
    page.one(".detail .call")
    nameless = """return [...document.querySelectorAll("button, input, select, [role=img], [role=listbox]")]
        .filter((node) => node.checkVisibility() && !(node.textContent.trim() || node.ariaLabel || node.labels?.length
            || node.getAttribute("aria-labelledby"))).map((node) => node.outerHTML.slice(0, 90))"""
    assert page.script(nameless) == []


def test_two_thousand_trajectories_are_small_and_quickly_there(browser, tmp_path):
    write_run(tmp_path / "run", steps=25, prompts=10, rollouts=8, words=200)
    write_report([tmp_path / "run"], tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 10e6
    # The fastest of three: other tests may have the processor.
    times = []
    for _ in range(3):
        page = Page(browser, tmp_path / "report.html", "#trajectories")
        page.found("2,000")
        assert 0 < len(page.all(".row")) < 40
        paint = page.script("return performance.getEntriesByName('first-contentful-paint')[0].startTime")
        times.append(max(paint, float(page.script("return document.documentElement.dataset.ready"))))
    assert min(times) < 1000, times
    print(f"first view of 2,000 trajectories: {min(times):.0f} ms")
    page.script("document.getElementById('list').scrollTop = 1e6")
    page.one("#row-1999")


def test_what_does_not_fit_is_left_out_group_by_group(browser, tmp_path, monkeypatch):
    monkeypatch.setattr("verl_cleaner.report.page.MAX_BYTES", 60_000)
    write_run(tmp_path / "run", steps=6, prompts=8, words=300)
    write_report([tmp_path / "run"], tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 250_000
    page = Page(browser, tmp_path / "report.html", "#trajectories")
    shown, total = page.script("return [inspector.index.run.length, data.runs[0].total]")
    assert 0 < shown < total == 192
    assert shown % 4 == 0
    assert f"{shown} trajectories, a sample of 192" in page.one("#found").text


def test_a_broken_dump_is_a_warning_on_the_page(browser, tmp_path):
    folder = write_run(tmp_path / "run")
    with (folder / "rollouts" / "1.jsonl").open("a") as file:
        file.write('{"output": "<b>cut')
    warnings = write_report([folder], tmp_path / "report.html")
    page = Page(browser, tmp_path / "report.html")
    assert warnings[0] in page.one(".warnings li").text
    assert "rollouts/1.jsonl: 1 line left out (line 17)" in warnings[0]


def test_metrics_alone_make_curves_and_an_empty_list(browser, tmp_path):
    folder = write_run(tmp_path / "run", steps=1)
    (folder / "rollouts").rename(tmp_path / "elsewhere")
    assert write_report([folder], tmp_path / "report.html") == [
        "run: no dumps of trajectories: they need trainer.rollout_data_dir=FOLDER"
    ]
    page = Page(browser, tmp_path / "report.html")
    assert len(page.all(".card")) > 10
    page.one(".explorer input").send_keys("tokens/kept")
    page.one(".card h3", "tokens/kept")
    page.script("location.hash = 'trajectories'")
    page.found(0)
    page.script("location.hash = 'config'")
    page.one("#view-config .hint", "No configuration")
    assert page.errors() == []


def test_a_watched_report_loads_itself_again_and_keeps_the_place(browser, tmp_path):
    """The page's clock is the test's."""
    clock = {"source": "window.setInterval = (tick, time) => { window.tick = tick; window.time = time; };"}
    number = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", clock)
    try:
        folder = write_run(tmp_path / "run", steps=2)
        write_report([folder], tmp_path / "report.html", refresh=7)
        page = Page(browser, tmp_path / "report.html", "#trajectories")
        assert page.script("return window.time") == 7000
        page.pick("step", "2")
        page.found(16)
        page.script("document.activeElement.blur()")
        page.press("j")
        page.one(".detail .call")
        address = browser.current_url
        (folder / "rollouts" / "3.jsonl").write_bytes((folder / "rollouts" / "2.jsonl").read_bytes())
        write_report([folder], tmp_path / "report.html")
        page.script("tick()")
        page.wait(lambda: "16 of 48" in page.one("#found").text)
        assert browser.current_url == address
        page.one(".detail .call")
        assert page.script("return window.tick") is None
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", number)


def test_the_same_run_makes_the_same_page(tmp_path):
    write_run(tmp_path / "run")
    for name in ("one", "two"):
        write_report([tmp_path / "run"], tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


# ---- one trajectory as a page of its own ---------------------------------------------------------------------------


def saved(browser, page, folder):
    """The page that the button "save" downloads."""
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
    page.one(".detail-head button", "save").click()
    return page.wait(lambda: next(iter(folder.glob("*.html")), None))


def alone(browser, path):
    page = Page(browser, path)
    page.one(".detail .message.assistant")
    assert not page.all(".tabs, .side, .warnings")
    page.script("document.querySelector('details.repairs').open = true")
    assert "prnt(" in page.one(".detail .diff").text
    page.one(".detail .switch button", "tokens").click()
    page.one(".token-box .token.over")
    assert page.errors() == []
    return page


def test_a_trajectory_is_saved_as_a_small_page_from_the_page_and_from_the_terminal(browser, tmp_path, capsys):
    run = write_run(tmp_path / "run", steps=20, prompts=8, words=200, extra=HOSTILE[:2])
    write_report([run], tmp_path / "report.html")
    page = Page(browser, tmp_path / "report.html", "#trajectories")
    page.pick("repaired", "yes")
    page.all(".row")[0].click()
    page.one(".detail .repairs")
    where = page.one(".detail-head").text.split("\n")[1:2]
    # The prompt's beginning is no part of the compressed blocks.
    page.script("data.index.prompts[data.index.prompt[inspector.open]] = arguments[0]", HOSTILE[0])
    (tmp_path / "downloads").mkdir()
    mine = saved(browser, page, tmp_path / "downloads")
    shown = alone(browser, mine)
    assert where[0] in shown.one(".detail-head").text
    assert browser.title.startswith("run · step 1")
    assert mine.stat().st_size < 120_000 < (tmp_path / "report.html").stat().st_size / 3
    for private in ("hunter2", "Qwen3-4B", "main_ppo", str(tmp_path)):
        assert private not in mine.read_text()
    theirs = tmp_path / "theirs.html"
    assert inspect([str(run), "--step", "1", "--repaired", "--prompt", "00010000", "--rollout", "0", "--html",
                    str(theirs)]) == 0  # fmt: skip
    assert "1 trajectory" in capsys.readouterr().out
    alone(browser, theirs)
    assert theirs.stat().st_size < 120_000
    # A saved page of a page that was saved is not offered.
    assert not [node for node in page.all(".detail-head button") if node.text == "save"]


def test_several_trajectories_on_a_page_have_their_list(browser, tmp_path, capsys):
    run = write_run(tmp_path / "run")
    out = tmp_path / "some.html"
    assert inspect([str(run), "--step", "1", "--prompt", "00010001", "--html", str(out)]) == 0
    page = Page(browser, out)
    assert len(page.all(".row")) == 4
    assert page.script("return document.getElementById('tab-trajectories').getAttribute('aria-selected')") == "true"
    with pytest.raises(SystemExit):
        inspect([str(write_run(tmp_path / "more", steps=4)), "--html", str(out)])
    assert "--html takes at most 50 trajectories, got 64" in capsys.readouterr().err
