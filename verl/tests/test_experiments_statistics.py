"""What a grid's results say: numbers known by hand, tables, figures, and the command's errors."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleaner_lab.experiments import figures, learning_curves, report, tables
from cleaner_lab.experiments.cells import difference, spread
from cleaner_lab.experiments.learning_curves import Axis, ResultsError, curves, of_method
from verl_cleaner.report.intervals import interval, t_quantile

DOCS = Path(__file__).parents[2] / "docs"
STEPS = (0, 2, 4, 6)


def run(method, seed, accuracies, *, tokens=100.0, seconds=2.0, **train):
    """Rows of a run that validates every second step; train: a metric's value by name, the same at every step."""
    steps = STEPS[: len(accuracies)]
    train = {"tokens_generated": tokens, "seconds": seconds, "tokens_discarded": 0.0} | train
    rows = [(method, seed, step, "held_out/accuracy", value) for step, value in zip(steps, accuracies, strict=True)]
    rows += [(method, seed, s, f"train/{key}", v) for s in range(1, steps[-1] + 1) for key, v in train.items()]
    return rows


def frame(*runs):
    return pd.DataFrame([row for rows in runs for row in rows], columns=report.COLUMNS)


def up(accuracies, offset):
    return [value + offset for value in accuracies]


BASELINE = [run("baseline", seed, up((0.3, 0.4, 0.5, 0.6), 0.02 * seed)) for seed in range(3)]
CLEANER = [
    run("cleaner", seed, up((0.3, 0.6, 0.7, 0.8), offset), tokens=200.0, seconds=2.0, tokens_discarded=50.0)
    for seed, offset in enumerate((0.0, 0.02, 0.07))
]
KEEP = [run("keep", 0, (0.3, 0.35, 0.4, 0.45))]
SHORT = [run("void", 0, (0.3, 0.3, 0.3, 0.3)), run("void", 1, (0.32, 0.35, 0.4))]
GRID = frame(*BASELINE, *CLEANER, *KEEP)


def row(text, method):
    """Cells of the method's row in the first table that has one."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {method} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def shown(mark):
    """The table below this mark in docs/experiments.md: cells of its header, and of each row."""
    text = (DOCS / "experiments.md").read_text().split(f"<!-- {mark} -->\n")[1].split("\n\n")[0]
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines())
    return header, rows


def leaves_and_half(link, weight):
    """The file of results that a row links, and the method that it is about."""
    return link.partition("(")[2].rstrip(")"), "leaves_half_split" if weight == "split" else "leaves_half"


def test_quantiles_leave_five_percent_outside():
    for freedom in (1, 2, 3, 10, 30, 99):
        quantile = t_quantile(freedom)
        t = np.linspace(-quantile, quantile, 20_001)
        scale = math.gamma((freedom + 1) / 2) / math.gamma(freedom / 2) / math.sqrt(freedom * math.pi)
        inside = np.trapezoid(scale * (1 + t * t / freedom) ** (-(freedom + 1) / 2), t)
        assert inside == pytest.approx(0.95, abs=1e-4), freedom


def test_an_interval_over_seeds():
    found = interval([1.0, 2.0, 3.0])
    assert (found.mean, found.seeds, found.sd) == (2.0, 3, 1.0)
    assert (found.low, found.high) == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)))
    assert found.holds_zero is True
    assert interval([2.0, 2.1, 2.2]).holds_zero is False
    alone = interval([0.25])
    assert (alone.mean, alone.sd, alone.low, alone.high, alone.holds_zero) == (0.25, None, None, None, None)
    assert interval([]) is None
    many = interval([0.0, 1.0] * 50)
    assert many.high - many.mean == pytest.approx(1.9842 * many.sd / 10, rel=1e-4)


def test_accuracy_over_what_was_spent():
    rows = run("baseline", 0, (0.3, 0.6, 0.7, 0.8))
    rows = [(*r[:4], 100.0 * r[2]) if r[3] == "train/tokens_generated" else r for r in rows]
    (curve,) = curves(frame(rows), axis=Axis.TOKENS).values()
    # 100 + 200, and so on
    assert list(curve.index) == [0, 300, 1000, 2100]
    assert learning_curves.at(curve, 650) == pytest.approx(0.65)
    assert learning_curves.at(curve, 2100) == pytest.approx(0.8)
    assert learning_curves.area(curve, 650) == pytest.approx((300 * 0.45 + 350 * 0.625) / 650)
    assert learning_curves.area(curve, 0) == pytest.approx(0.3)


def test_a_run_whose_cost_has_a_gap_is_not_compared_by_cost():
    rows = [r for r in KEEP[0] if r[2:4] != (3, "train/seconds")]
    assert len(curves(frame(rows), axis=Axis.TOKENS)) == 1
    with pytest.raises(ResultsError, match="keep, seed 0 lacks train/seconds at step 3 and validates at step 6"):
        curves(frame(rows), axis=Axis.SECONDS)


@pytest.mark.parametrize(
    ("values", "level", "expected"),
    [
        ((0.3, 0.5, 0.7, 0.9), 0.6, 3.0),
        ((0.3, 0.5, 0.7, 0.9), 0.5, 2.0),
        ((0.3, 0.5, 0.2, 0.9), 0.45, 1.5),
        ((0.3, 0.2, 0.2, 0.9), 0.3, 0.0),
        ((0.3, 0.3, 0.3, 0.6), 0.4, 4 + 2 / 3),
        ((0.3, 0.4, 0.5, 0.6), 0.61, math.inf),
    ],
)
def test_where_a_level_is_first_reached(values, level, expected):
    assert learning_curves.first_reach(pd.Series(values, index=STEPS), level) == pytest.approx(expected)


def test_the_final_accuracy_is_of_three_validations_after_the_start():
    assert learning_curves.final(pd.Series((0.9, 0.1, 0.2, 0.3, 0.7), index=(0, 2, 4, 6, 8))) == pytest.approx(0.4)
    assert learning_curves.final(pd.Series((0.9, 0.1), index=(0, 2))) == pytest.approx(0.1)
    assert learning_curves.final(pd.Series((0.9,), index=(0,))) is None


def test_pairs_are_of_equal_seeds_and_equal_steps():
    found = curves(frame(*BASELINE, *SHORT))
    void, baseline = of_method(found, "void"), of_method(found, "baseline")
    # Seed 1 against the baseline's steps 2 and 4, 0.42 and 0.52; no seed 2.
    expected = {0: 0.3 - 0.5, 1: 0.375 - 0.47}
    assert learning_curves.final_differences(void, baseline) == pytest.approx(expected)
    assert list(learning_curves.final_differences(void, baseline)) == [0, 1]
    negative = {seed: -value for seed, value in expected.items()}
    assert learning_curves.final_differences(baseline, void) == pytest.approx(negative)
    assert learning_curves.differences({2: 0.5, 0: 0.4}, {0: 0.1, 1: 0.2}) == pytest.approx({0: 0.3})
    assert learning_curves.common_budget(found) == (4.0, ("void", 1))


def test_a_mean_ends_with_its_shortest_run():
    mean = learning_curves.mean_curve(
        [pd.Series((0.0, 1.0, 2.0), index=(0, 10, 20)), pd.Series((0.2, 0.4), index=(0, 15))]
    )
    assert list(mean.index) == [0, 10, 15]
    assert list(mean) == pytest.approx([0.1, (1 + 1 / 3) / 2, (1.5 + 0.4) / 2])
    assert list(learning_curves.smooth(pd.Series((0.0, 3.0, 6.0, 0.0)), 3)) == pytest.approx([1.5, 3.0, 3.0, 3.0])


def test_the_table_of_final_accuracies():
    extra = [("cleaner", s, 6, "held_out_rollback/accuracy", 0.9) for s in range(2)]
    unseen = [("keep", 0, step, "held_out/unseen_accuracy", value) for step, value in ((0, 0.9), (2, 0.1), (4, 0.2))]
    text = tables.headline(pd.concat([GRID, frame(extra, unseen)]), {"held_out_tasks": 400})
    assert row(text, "baseline")[:5] == ["3", "52.0 ± 2.0", "50.0 52.0 54.0", "–", "62.0 ± 2.0"]
    cells = row(text, "cleaner")
    # differences 20, 20, 23: sd 1.732, half width 4.303
    assert cells[:4] == ["3", "73.0 ± 3.6", "70.0 72.0 77.0", "+21.0 [+16.7, +25.3]"]
    assert cells[5:] == ["–", "90.0 ± 0.0 (2 of 3 seeds)", "–"]
    cells = row(text, "keep")
    assert cells[:6] == ["1", "40.0", "40.0", "-10.0, one seed: no interval", "45.0", "15.0"]
    # sqrt(0.52 × 0.48 / 400)
    assert "one evaluation on 400 held-out tasks has a standard error of 2.5." in text
    assert "Not validated up to" not in text
    fewer = tables.headline(frame(*BASELINE[:2], *CLEANER), {})
    assert row(fewer, "cleaner")[3] == "+20.0 [+20.0, +20.0] (2 of 3 seeds)"
    short = tables.headline(frame(*BASELINE, *SHORT), {})
    assert "Not validated up to step 6: void seed 1 (step 4)." in short
    assert "Noise floor" not in short


def test_the_tables_at_equal_budgets():
    both = frame(*BASELINE, *CLEANER)
    text = tables.equal_budget(both, Axis.TOKENS)
    assert text.startswith("## At equal tokens: 600\n")
    # Step 3 of the cleaner arm: 65, 67, 72 against 60, 62, 64.
    assert row(text, "cleaner")[:2] == ["68.0 ± 3.6", "+6.0 [+1.7, +10.3]"]
    assert row(text, "cleaner")[2].startswith("53.8 ")
    assert row(text, "baseline")[2] == "47.0 ± 2.0"
    assert row(tables.equal_budget(both, Axis.SECONDS), "cleaner")[0] == "83.0 ± 3.6"
    short = tables.equal_budget(frame(*BASELINE, *SHORT), Axis.STEPS)
    assert "## At equal steps: 4" in short
    assert "Every run is cut where void, seed 1 ends." in short


def test_the_table_of_the_steps_to_the_baselines_accuracy():
    text = tables.reaching(GRID, Axis.STEPS)
    # Own level 50 between 30 at step 0 and 60 at step 2; the last seed is 37 to 67, level 54.
    assert row(text, "cleaner")[:4] == ["1, 1, 1", "1", "3 of 3", "0.22"]
    # 4 steps of 6: the noise-free baseline passes the mean of its last three validations at the middle one.
    assert row(text, "baseline")[:4] == ["4, 4, 4", "4", "3 of 3", "0.67"]
    assert row(text, "keep")[:4] == ["not in 6", "not reached", "0 of 1", "not reached"]
    tokens = tables.reaching(GRID, Axis.TOKENS)
    assert row(tokens, "cleaner")[:4] == ["267, 267, 227", "267", "3 of 3", "0.44"]
    # Level 52 for all.
    assert row(tokens, "baseline")[4:] == ["440, 400, 360", "400", "3 of 3", "0.67"]
    assert row(tokens, "keep")[4] == "not in 600"


def test_a_run_that_does_not_get_there_is_later_than_all_others():
    late = frame(*BASELINE, *CLEANER[:1], run("cleaner", 1, (0.3, 0.3, 0.3, 0.3)), run("cleaner", 2, (0.3, 0.3)))
    assert row(tables.reaching(late, Axis.STEPS), "cleaner")[:3] == ["1, not in 6, not in 2", "not reached", "1 of 3"]
    late = frame(*BASELINE, *CLEANER[:2], run("cleaner", 2, (0.3, 0.3)))
    assert row(tables.reaching(late, Axis.STEPS), "cleaner")[1:4] == ["1", "2 of 3", "0.22"]
    other = frame(*BASELINE, run("cleaner", 7, (0.3, 0.5, 0.6, 0.7)))
    cells = row(tables.reaching(other, Axis.STEPS), "cleaner")
    assert cells[:4] == ["–"] * 4, "no baseline of that seed"
    assert cells[4:] == ["2", "2", "1 of 1", "0.40"], "52 between 50 at step 2 and 60 at step 4"


def test_the_table_of_training():
    def decaying(method, seed):
        return [(method, seed, step, "train/recovery_rate", 0.9 if step <= 10 else 0.5) for step in range(1, 31)]

    text = tables.training(pd.concat([GRID, frame(decaying("cleaner", 0), decaying("cleaner", 1))]))
    assert row(text, "failed turns recovered, first 10 steps") == ["–", "90.0", "–"]
    assert row(text, "failed turns recovered, last 10 steps") == ["–", "50.0", "–"]
    assert row(text, "tokens generated a step, all steps") == ["100", "200", "100"]
    assert row(text, "generated tokens that were discarded, all steps") == ["0.0", "25.0", "0.0"]
    assert row(text, "seconds a step, all steps") == ["2.0", "2.0", "2.0"]


def test_what_the_data_do_not_decide():
    runs = [run("baseline_is", seed, up((0.3, 0.4, 0.5, 0.6), offset)) for seed, offset in enumerate((0.05, 0.0, 0.02))]
    text = tables.undecided(frame(*BASELINE, *CLEANER, *KEEP, *runs))
    # 5, −2, −2 points at the end and at equal budgets alike: mean 0.3, half width 4.303 × 4.04 / 1.732
    apart = "+0.3 [-9.7, +10.4]"
    expected = f"- baseline_is − baseline: final accuracy {apart}; at equal tokens {apart}; at equal seconds {apart}"
    assert expected in text.splitlines()
    assert not any(line.startswith("- cleaner − baseline:") for line in text.splitlines())
    assert "Of 9 intervals" in text
    assert "No interval, for want of two seeds that both have: keep against any other method." in text
    assert tables.undecided(frame(*BASELINE, *CLEANER)).count("\n- ") == 0
    few = frame(*BASELINE, *CLEANER[:1], *KEEP, run("void", 1, (0.3,) * 4), run("void", 0, (0.3,) * 4))
    assert "cleaner, keep against any other method." in tables.undecided(few)


def test_the_order_of_the_rows_does_not_matter():
    shuffled = GRID.sample(frac=1, random_state=0)
    ordered = report.select(shuffled, ["cleaner", "keep"])
    assert tables.report(ordered, {}) == tables.report(GRID, {})


def test_figures_have_the_same_bytes_whatever_the_users_settings(tmp_path):
    import matplotlib as mpl

    for name, draw in figures.FIGURES.items():
        draw(GRID, tmp_path / f"a-{name}")
        with mpl.rc_context({"figure.facecolor": "black", "font.size": 30}):
            draw(GRID.copy(), tmp_path / f"b-{name}")
        first, second = ((tmp_path / f"{which}-{name}").read_bytes() for which in "ab")
        assert first == second
        assert len(first) > 20_000
        assert b"Software" not in first
    draw(frame(*BASELINE, *CLEANER), tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes() != first


def test_a_method_looks_the_same_whichever_are_shown():
    shown = ["baseline", *figures._USUAL, "mine"]
    styles = [tuple(figures._style(method, shown).values()) for method in shown]
    assert len(set(styles)) == len(shown)
    assert figures._style("gamma0", ["baseline", "gamma0"]) == figures._style("gamma0", shown)
    assert figures._style("baseline", shown)["color"] == figures._GREY


def test_a_figure_of_a_grid_that_records_little(tmp_path):
    few = frame([("baseline", 0, 0, "held_out/accuracy", 0.3)])
    for name, draw in figures.FIGURES.items():
        draw(few, tmp_path / name)
        assert (tmp_path / name).exists()
    assert "–" in tables.report(few, {})


@pytest.fixture
def results(tmp_path):
    def write(rows=GRID, about=None):
        table = pa.Table.from_pandas(rows, preserve_index=False)
        metadata = {} if about is None else {b"cleaner": json.dumps(about).encode()}
        pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "results.parquet")
        return tmp_path / "results.parquet"

    return write


def command(path, *more):
    report.main([str(path), "--out", str(path.parent / "out"), *more])


def test_the_command(results, tmp_path, capsys, monkeypatch):
    path = results(about={"grid": "tiny", "held_out_tasks": 400})
    command(path)
    printed, out = capsys.readouterr().out, tmp_path / "out"
    assert sorted(file.name for file in out.iterdir()) == ["final.png", "headline.png", "mechanism.png", "tables.md"]
    text = (out / "tables.md").read_text()
    assert text in printed
    assert text.startswith("# Results of tiny\n")
    assert "keep" in text
    assert "on 400 held-out tasks" in text
    monkeypatch.setattr(figures, "FIGURES", {})
    command(path, "--methods", "cleaner")
    text = (out / "tables.md").read_text()
    assert "keep" not in text
    assert row(text, "cleaner")[3] == "+21.0 [+16.7, +25.3]"


def test_short_runs_are_left_out_by_name(results, capsys, monkeypatch):
    monkeypatch.setattr(figures, "FIGURES", {})
    path = results(frame(*BASELINE, *SHORT))
    command(path, "--min-steps", "6")
    text = capsys.readouterr().out
    assert "Left out, not validated at step 6 or later: void seed 1." in text
    assert "## At equal steps: 6" in text
    assert row(text, "void")[0] == "1"
    with pytest.raises(SystemExit, match="no run of 'baseline' was validated at step 7 or later; lower --min-steps"):
        command(path, "--min-steps", "7")


def test_runs_are_cut_at_a_step(results, capsys, monkeypatch):
    monkeypatch.setattr(figures, "FIGURES", {})
    path = results(GRID)
    command(path, "--max-steps", "4")
    text = capsys.readouterr().out
    assert "Every run is used up to step 4 only." in text
    assert "## At equal steps: 4" in text
    command(path)
    assert "## At equal steps: 6" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "more", "message"),
    [
        (GRID.drop(columns="step"), (), "lacks the column step; expected method, seed, step, metric, value"),
        (GRID, ("--methods", "cleaner,other"), "no method 'other' in the results; expected some of baseline, cleaner,"),
        (GRID.astype({"seed": str}), (), "the column seed holds .*string; expected whole numbers"),
        (frame(*CLEANER), (), "has no method 'baseline' to compare with; it has cleaner"),
        (GRID.head(0), (), "has no rows"),
        (pd.concat([GRID, GRID.tail(1)]), (), r"\(keep, seed 0, step 6, train/tokens_discarded\) is there twice"),
        (GRID.assign(value=math.nan), (), r"row 0 \(baseline, seed 0, step 0, held_out/accuracy\) has an empty or NaN"),
        (GRID[GRID["metric"] != "held_out/accuracy"], (), "baseline has no held_out/accuracy; expected it at every"),
    ],
)
def test_what_the_command_refuses(results, rows, more, message):
    path = results(rows)
    with pytest.raises(SystemExit, match=message):
        command(path, *more)
    assert not (path.parent / "out").exists()


def test_a_file_that_is_not_there_or_no_parquet(tmp_path):
    with pytest.raises(SystemExit, match=r"none\.parquet does not exist"):
        command(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("method,seed\n")
    with pytest.raises(SystemExit, match=r"text\.parquet is no readable parquet file"):
        command(tmp_path / "text.parquet")
    table = pa.Table.from_pandas(GRID, preserve_index=False).replace_schema_metadata({b"cleaner": b"tiny"})
    pq.write_table(table, tmp_path / "about.parquet")
    with pytest.raises(SystemExit, match="the metadata 'cleaner' is no JSON"):
        command(tmp_path / "about.parquet")


@pytest.mark.parametrize(
    ("results", "folder", "options"),
    [
        ("tight", "tight", ["--min-steps", "60"]),
        ("nano", "nano", []),
        ("wide", "wide", []),
        ("wide_tight", "wide_tight", []),
        ("drift_slack", "drift_slack", []),
        ("drift_tight", "drift_tight", ["--min-steps", "32"]),
    ],
)
def test_the_published_tables_are_those_of_the_published_results(tmp_path, monkeypatch, results, folder, options):
    monkeypatch.setattr(figures, "FIGURES", {})
    published = DOCS / "experiments"
    report.main([str(published / f"{results}.parquet"), "--out", str(tmp_path), *options])
    assert (published / folder / "tables.md").read_text() == (tmp_path / "tables.md").read_text()


@pytest.mark.parametrize(
    "results",
    [
        "drift_tight",
        "drift_slack",
        "drift_rates",
        "drift_one",
        "drift_one_tight",
        "drift_one_slack",
        "drift_six",
        "drift_six_tight",
        "drift_one_gpu_tight",
        "smollm2",
        "nano_leaves",
        "tight_leaves",
        "chain_slack",
        "chain_tight",
        "chain_six",
        "chain_six_tight",
    ],
)
def test_the_validations_in_the_text_are_those_of_the_published_results(results):
    header, rows = shown(results)
    frame = pd.read_parquet(DOCS / f"experiments/{results}.parquet")
    steps = [int(column) for column in header if column.isdigit()]
    assert len(rows) == frame.method.nunique()
    for method, seeds, *accuracies, first, longer, repaired, tokens in rows:
        of_method = frame[frame.method == method.strip("`")]

        def means(metric, of_method=of_method):
            found = of_method[of_method.metric == metric].groupby("step").value.mean()
            return {step: f"{100 * value:.1f}" for step, value in found.items()}

        validated, attempts = means("held_out/accuracy"), means("held_out/first_attempt_success")
        assert int(seeds) == of_method.seed.nunique()
        assert accuracies == [validated.get(step, "–") for step in steps]
        assert first == f"{attempts[0]} → {attempts[max(attempts)]}"
        harder = "longer" if "held_out/longer_accuracy" in set(frame.metric) else "unseen"
        assert longer == list(means(f"held_out/{harder}_accuracy").values())[-1]
        assert repaired == next(iter(means("held_out_rollback/accuracy").values()), "–")
        spent = of_method[of_method.metric == "train/tokens_generated"].groupby("seed").value.sum().mean()
        assert tokens == f"{spent:,.0f}"


def test_the_learning_rates_in_the_text_are_those_of_the_published_results():
    (_, *rates), rows = shown("rates of drift_one")
    frame = pd.read_parquet(DOCS / "experiments/drift_one_rates.parquet")
    validations = frame[frame.metric == "held_out/accuracy"]
    last = sorted(validations.step.unique())[-3:]
    means = validations[validations.step.isin(last)].groupby("method").value.mean()
    found = {}
    for method, *cells in rows:
        found |= {f"{method.strip('`')}_{rate}": cell for rate, cell in zip(rates, cells, strict=True) if cell != "–"}
    assert found == {method: f"{100 * mean:.1f}" for method, mean in means.items()}


def test_the_overview_in_the_text_is_that_of_the_published_results():
    named = set()
    for task, calls, spare, _, weight, seeds, baseline, ours, apart, failed, tokens in shown("overview")[1]:
        # A trajectory of one call and an answer has one leaf at most.
        assert (weight == "either") == ((calls, spare) == ("1", "none"))
        results, method = leaves_and_half(task, weight)
        named.add((results, method))
        frame = pd.read_parquet(DOCS / results)
        found = curves(frame)
        # The mean of the last three validations after the start needs that many.
        long = {run: curve for run, curve in found.items() if len(curve) > 3}
        both = of_method(long, "baseline").keys() & of_method(long, method).keys()
        runs = {name: {seed: long[name, seed] for seed in both} for name in ("baseline", method)}
        final = {name: learning_curves.finals(of_seed) for name, of_seed in runs.items()}
        paired = learning_curves.final_differences(runs[method], runs["baseline"])
        assert int(seeds) == len(both)
        assert [baseline, ours] == [spread(values.values()) for values in final.values()]
        assert apart.strip("*") == difference(paired.values(), of=len(both))
        left = _of_steps(frame, runs, "train/failures_sampled", last=10)
        spent = _of_steps(frame, runs, "train/tokens_generated")
        assert failed == f"{left[0]:.2f} → {left[1]:.2f}"
        assert tokens == f"{spent[1] / spent[0]:.2f}"
    assert named == _beside_the_baseline(), (
        "every grid that has a baseline and leaves with half of each group is in the overview"
    )


def test_how_soon_in_the_text_is_that_of_the_published_results():
    named = set()
    for task, *_, weight, reached, steps, steps_baseline, tokens, tokens_baseline in shown("reaching")[1]:
        results, method = leaves_and_half(task, weight)
        named.add((results, method))
        frame = pd.read_parquet(DOCS / results)
        for axis, ours, baseline in ((Axis.STEPS, steps, steps_baseline), (Axis.TOKENS, tokens, tokens_baseline)):
            text = tables.reaching(frame, axis)
            assert row(text, method)[2:4] == [reached, ours]
            assert row(text, "baseline")[3] == baseline
    drift = {(name, method) for name, method in _beside_the_baseline() if name.startswith("experiments/drift")}
    # Where the baseline learns nothing there is nothing to reach.
    assert named == {(name, method) for name, method in drift if name != "experiments/drift_six_tight.parquet"}


def _of_steps(frame, runs, metric, *, last=0):
    """A method's mean over the last steps of each run, 0: over all of them, then over its runs."""
    found = curves(frame, metric)
    return [np.mean([found[method, seed].iloc[-last:].mean() for seed in of_seed]) for method, of_seed in runs.items()]


def _beside_the_baseline():
    """(file, method) of all leaves with half of each group that have a baseline in the same file."""
    found = set()
    for path in (DOCS / "experiments").glob("*.parquet"):
        methods = set(pd.read_parquet(path, columns=["method"]).method)
        if "baseline" in methods:
            found |= {(f"experiments/{path.name}", name) for name in methods & {"leaves_half", "leaves_half_split"}}
    return found
