"""What the page tells at first sight, in headless Chromium: the policy or the repairs, seeds, charts, groups, print."""

import base64
import json
import re
import runpy
import shutil
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from report_data import write_evaluation, write_run, write_validation
from report_page import Page, media
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from verl_cleaner.report.write import write_report


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """Two settings of two seeds each, with validations and an evaluation."""
    folder = tmp_path_factory.mktemp("story")
    for setting, rollback in (("baseline", False), ("cleaner", True)):
        for seed in range(2):
            run = write_run(
                folder / setting / f"seed{seed}", rollback=rollback, seed=seed, steps=4, prompts=2, rollouts=8
            )
            write_validation(run, steps=(0, 4), seed=seed)
            add(run, seed, rollback)
    evaluation = write_evaluation(folder / "evaluation")
    out = folder / "report.html"
    assert write_report([folder / "baseline", folder / "cleaner"], out, evaluated=[evaluation]) == []
    return out


def add(run, seed, rollback):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        data, step = line["data"], line["step"]
        data["critic/score/acc"] += 0.02 * seed + 0.1 * rollback
        data |= {
            "actor/sampled_kl": 3e-10 * (step + seed),
            "actor/overwritten_kl": -2e-10 * step,
            "actor/entropy": 0.52,
        }
        data |= {"actor/grad_norm": 1.0 + 0.05 * step, "critic/advantages/mean": 0.0, "critic/advantages/min": -2.0}
        data |= {"critic/advantages/max": 2.0}
        if rollback:
            data |= {"leaves/per_group": 1.5, "leaves/gradient_share": 0.2, "leaves/token_share": 0.1}
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def rows(page, heading):
    """The texts of a table's rows, by its caption."""
    find = "return [...document.querySelectorAll('table')].find((one) => one.caption?.textContent === arguments[0])"
    found = page.script(find, heading).find_elements(By.CSS_SELECTOR, "tr")
    return [" ".join(row.text.split()) for row in found]


def card(page, title):
    return next(card for card in page.all(".card") if card.find_element(By.CSS_SELECTOR, "h3").text == title)


def test_a_run_says_what_it_was(browser, tmp_path):
    write_report([write_run(tmp_path / "run", seed=3)], tmp_path / "report.html", title="My run")
    page = Page(browser, tmp_path / "report.html")
    assert page.one("h1").text == "My run"
    about = page.one(".about").text.replace("\n", " ")
    for text in (
        "started 2026-03-04T05:06:07+00:00", "model Qwen/Qwen3-4B", "seed 3", "commit 0123456789ab",
        "hardware 4 × NVIDIA H100 80GB HBM3", "versions verl 0.9.1, torch 2.11.0", "main_ppo data.seed=3",
    ):  # fmt: skip
        assert text in about
    assert page.errors() == []


def test_the_policy_or_the_repairs(browser, story):
    """Training leaves hardly a failure in its trajectories, and the policy alone makes as many as before."""
    page = Page(browser, story)
    for fact in ("All runs: started 2026-03-04", "model Qwen/Qwen3-4B", "steps 4", "commit 0123456789ab"):
        assert fact in page.one(".common").text
    assert "seed" not in page.one(".common").text
    found = rows(page, "The policy or the repairs?")
    assert found[0] == "baseline (2 seeds) cleaner (2 seeds)"
    own = found.index("The policy alone, held out")
    assert found[own + 1 : own + 4] == [
        "accuracy 39.0 % from 30.0 % ↑ better 39.0 % from 30.0 % ↑ better",
        "first attempts that succeed 42.0 % from 30.0 % ↑ better 42.0 % from 30.0 % ↑ better",
        "tool failures a trajectory 0.66 from 0.7 ↓ better 0.66 from 0.7 ↓ better",
    ]
    repaired = found[found.index("Training, after repairs") :]
    assert "tool failures a trajectory 0.52 from 0.6 ↓ better 0.02" in repaired
    for title in ("Tool failures a trajectory", "First attempts that succeed"):
        assert "held out" in card(page, title).find_element(By.CSS_SELECTOR, ".key").text
    assert page.errors() == []


def test_families_evaluations_and_leaves(browser, story):
    page = Page(browser, story)
    families = rows(page, "Held-out accuracy by task family")
    assert families[0] == "tasks step 0 step 4 change on the same tasks"
    assert [re.match(r"(\D+) (\d+) [\d.]+ \[", row).groups() for row in families[2:5]] == [
        ("all families", "20"),
        ("primes", "10"),
        ("sums", "10"),
    ]
    (_, evaluation) = rows(page, "Bare policy and rollback at test time")
    assert evaluation == "aime2025 cleaner-4b 30 × 4 50.0 [40.0, 60.0] 50.0 [40.0, 60.0] +10.0 [+2.0, +20.0] 0.4 0"
    assert {"Leaves a group", "Share of leaves", "Advantages"} <= {node.text for node in page.all(".card h3")}
    assert page.errors() == []


def test_what_repairs_add_has_columns_where_it_was_measured(browser, tmp_path):
    run = write_run(tmp_path / "run")
    write_validation(run, steps=(0, 3))
    shutil.copytree(run / "validation" / "trajectories", run / "validation" / "with_rollback" / "trajectories")
    write_report([run], tmp_path / "report.html")
    head, first, *_ = rows(Page(browser, tmp_path / "report.html"), "Held-out accuracy by task family")
    assert head == "tasks step 0 step 3 change on the same tasks last, with rollback what repairs add"
    assert first.endswith("0.0 [0.0, 0.0]")


def test_seeds_are_a_mean_with_a_band_or_each_for_itself(browser, story):
    page = Page(browser, story)
    count = "return [arguments[0].querySelectorAll('.line').length, arguments[0].querySelectorAll('polygon').length]"
    assert [chip.text for chip in page.all(".run-chip")] == ["baseline (2 seeds)", "cleaner (2 seeds)"]
    assert page.script(count, card(page, "Training accuracy")) == [2, 2]
    page.one("#seeds").click()
    assert len(page.all(".run-chip")) == 4
    assert page.script(count, card(page, "Training accuracy")) == [4, 0]
    page.one("#seeds").click()
    page.one(".run-chip", "baseline").click()
    assert page.script(count, card(page, "Training accuracy")) == [1, 1]
    page.script("location.hash = 'trajectories'")
    page.wait(lambda: page.all(".prompt-row"))
    assert all("cleaner" in row.text for row in page.all(".prompt-row"))
    assert page.errors() == []


def test_differences_against_any_group(browser, story):
    page = Page(browser, story)
    line = next(row for row in rows(page, "Differences") if row.startswith("accuracy training"))
    assert "+10.0 [" in line
    Select(page.one("[aria-label='Compare with']")).select_by_visible_text("cleaner (2 seeds)")
    line = next(row for row in rows(page, "Differences") if row.startswith("accuracy training"))
    assert "−10.0 [" in line
    assert "Over the last tenth of the steps up to 4, which all runs reached" in page.one("#view-curves").text
    page.one("#seeds").click()
    assert "one seed" in rows(page, "Differences")[1]
    assert page.errors() == []


def heights(page, title):
    """Of a chart's points above the bottom, as shares of the height."""
    return page.script(
        "return [...arguments[0].querySelectorAll('polyline.line')].flatMap((l) => l.getAttribute('points').split(' ')"
        ".map((p) => (194 - Number(p.split(',')[1])) / 182))",
        card(page, title),
    )


def test_units_stand_with_the_charts_and_run_colours_stay_in_sight(browser, story):
    page = Page(browser, story)
    for title, unit in (("Tool latency", "In seconds."), ("Tokens", "In tokens."), ("Entropy", "In nats.")):
        assert card(page, title).find_element(By.CSS_SELECTOR, "figcaption p").text.startswith(unit)
    page.script("window.scrollTo(0, document.body.scrollHeight)")
    for chip in page.all(".run-chip"):
        assert page.script("return arguments[0].getBoundingClientRect().top >= 0", chip)


def test_rounding_noise_is_no_spike(browser, story):
    page = Page(browser, story)
    shares = heights(page, "KL of the update")
    assert max(shares) - min(shares) < 0.01, "3e-10 fills the chart"
    page.one(".explorer input").send_keys("actor/sampled_kl")
    page.one(".card h3", "actor/sampled_kl")
    shares = heights(page, "actor/sampled_kl")
    assert max(shares) - min(shares) < 0.01


def test_axes_begin_at_zero_or_say_so(browser, story):
    page = Page(browser, story)
    marked = {
        node.find_element(By.CSS_SELECTOR, "h3").text: node
        for node in page.all(".card")
        if node.find_elements(By.CSS_SELECTOR, ".cut")
    }
    assert "Gradient norm" in marked
    assert "axis from 1" in marked["Gradient norm"].text
    label = marked["Gradient norm"].find_element(By.CSS_SELECTOR, "svg").get_attribute("aria-label")
    assert "The axis begins at 1, not at zero." in label
    for node in page.all(".card"):
        title = node.find_element(By.CSS_SELECTOR, "h3").text
        lowest = node.find_elements(By.CSS_SELECTOR, "text.tick[text-anchor=end]")[0].text
        assert title in marked or lowest.startswith(("0", "-")), (title, lowest)
    # A constant is no reason to cut the axis.
    assert "Entropy" not in marked


@pytest.mark.parametrize("width", [390, 900, 1400, 1900])
def test_cards_fill_their_rows(browser, story, width):
    """No card beside a blank, and letters of one size whatever the card's width."""
    page = Page(browser, story, size=(width, 900))
    right, sizes = page.script(
        """const right = (node) => node.getBoundingClientRect().right;
        const rows = [...document.querySelectorAll(".cards")].filter((row) => row.children.length);
        const charts = [...document.querySelectorAll(".cards svg[role=img]")];
        return [rows.map((row) => Math.abs(right(row.lastElementChild) - right(document.querySelector(".facts-head")))),
            charts.map((svg) => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width)];"""
    )
    assert max(right) < 2
    assert max(sizes) / min(sizes) < 1.6
    assert page.script("return document.documentElement.scrollWidth") <= width


def test_rollouts_stand_below_their_prompt_which_is_shown_once(browser, story):
    page = Page(browser, story, "#trajectories")
    page.pick("run", "cleaner/seed0")
    page.pick("split", "train")
    page.pick("step", "2")
    page.found(16)
    heads = page.all(".prompt-row")
    assert [head.text.split("\n")[0] for head in heads] in (
        [f"How much is {number} + x?" for number in order] for order in ((200, 201), (201, 200))
    )
    assert "of 8 right · 4 repaired" in heads[0].text
    assert len(page.all(".row")) == 16
    assert "How much" not in page.all(".row")[0].text
    tops = sorted(box["y"] for box in (node.rect for node in page.all(".row, .prompt-row")))
    assert all(second - first >= 28 for first, second in pairwise(tops))
    legend = page.one(".legend").text
    assert all(word in legend for word in ("✓ right", "✗ wrong", "repaired", "NameError"))
    assert page.errors() == []


def test_the_list_is_used_with_keys_and_read_aloud(browser, story):
    page = Page(browser, story, "#trajectories")
    page.pick("repaired", "yes")
    page.wait(lambda: page.all(".row"))
    page.script("document.getElementById('list').focus()")
    for _ in range(3):
        page.press(Keys.ARROW_DOWN)
        page.one(".detail .call")
    active = page.one("#list").get_attribute("aria-activedescendant")
    chosen = page.wait(lambda: browser.find_element(By.ID, active))
    assert chosen.get_attribute("aria-selected") == "true"
    assert chosen.get_attribute("role") == "option"
    for word in ("rollout", "repaired", "NameError", "How much is"):
        assert word in chosen.get_attribute("aria-label")
    children = "return [...document.getElementById('rows').children].map((node) => node.getAttribute('role'))"
    assert set(page.script(children)) == {"option", "presentation"}
    page.script("document.getElementById('tab-trajectories').focus()")
    page.press(Keys.ARROW_RIGHT)
    assert page.script("return document.activeElement.id") == "tab-config"
    page.one("#view-config")


def test_print_has_all_tables_and_curves_and_no_controls(browser, story):
    page = Page(browser, story)
    page.script("document.documentElement.dataset.theme = 'dark'")
    try:
        media(browser, "print")
        assert not page.all(".tabs, .explorer, #theme, #help-open, .data summary")
        assert len(page.all(".card")) > 10
        assert page.script("return getComputedStyle(document.body).color") == "rgb(29, 33, 38)"
        pdf = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"]
        assert len(base64.b64decode(pdf)) > 20_000
    finally:
        media(browser)


@pytest.mark.alone
def test_a_long_run_opens_in_under_three_seconds(browser, tmp_path):
    """500 steps with many metrics, and as many trajectories as the page takes: it shows a sample of larger dumps."""
    run = write_run(tmp_path / "run", steps=8, prompts=32, rollouts=8, words=300)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    extra = {f"more/{number}": 0.5 for number in range(150)}
    with (run / "metrics.jsonl").open("w") as file:
        for step in range(500):
            file.write(json.dumps({"step": step, "data": lines[step % 8]["data"] | extra}) + "\n")
    for step in range(9, 200):
        shutil.copy(run / "rollouts" / f"{step % 8 + 1}.jsonl", run / "rollouts" / f"{step}.jsonl")
    write_report([run], tmp_path / "report.html")
    times = []
    for _ in range(3):
        page = Page(browser, tmp_path / "report.html")
        times.append(float(page.script("return document.documentElement.dataset.ready")))
    assert min(times) < 3000, times
    print(f"a run of 500 steps is there after {min(times):.0f} ms")
    assert page.errors() == []


def test_the_pictures_of_the_documentation_are_made_by_a_script(browser, tmp_path, monkeypatch):
    """The ones that docs/report.md shows, each as small as that page's test wants it."""
    docs = Path(__file__).parents[2] / "docs"
    run = write_run(tmp_path / "run")
    monkeypatch.setattr(sys, "argv", ["report_pictures.py", str(run), "--out", str(tmp_path / "pictures")])
    runpy.run_path(str(docs / "report_pictures.py"), run_name="__main__")
    shown = set(re.findall(r"report_\w+\.png", (docs / "report.md").read_text()))
    made = list((tmp_path / "pictures").iterdir())
    assert {path.name for path in made} == shown
    assert all(5_000 < path.stat().st_size < 150_000 for path in made)
    # The repaired turn is open: its picture differs from that of the tokens.
    assert len({path.read_bytes() for path in made}) == len(made)
