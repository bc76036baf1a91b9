"""`data_filter.sh`: floor(count × ratio) of every bucket, bit for bit, at full size; and what it refuses."""

import hashlib
import json
import os
import random
import resource
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from math import floor
from pathlib import Path
from unittest import mock

import pandas as pd
import pytest

from verl_cleaner.dataset import filter as data_filter
from verl_cleaner.dataset import subset, success, synthetic
from verl_cleaner.reward.sources import Kind, load

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    synthetic.write_all(folder, seed=5)
    return folder


@pytest.fixture(scope="module")
def filtered(full):
    """The script itself, with its defaults: (what it printed, seconds of CPU time)."""
    start = cpu_seconds_of_children()
    process = subprocess.run(
        ["bash", str(REPOSITORY / "data_filter.sh"), *arguments(full), "--output_dir", str(full / "out")],
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout, cpu_seconds_of_children() - start


def cpu_seconds_of_children():
    """A busy host must not fail a test of speed."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def arguments(folder):
    return ["--dataset", str(folder / synthetic.TRAINING), "--stats", str(folder / synthetic.STATISTICS)]


def main(*options):
    with mock.patch.object(sys, "argv", ["data_filter.sh", *map(str, options)]):
        return data_filter.main()


def groups(folder):
    """(bucket, is code) -> rows in the statistics."""
    code = load()
    found = success.read(folder / synthetic.STATISTICS).values()
    return Counter((s.successes * 8 // s.attempts, code.kind(s.data_source) == Kind.CODE) for s in found)


DEFAULTS = ["0", "0.8", "0.9", "1", "1", "1", "1", "1", "0"]


@pytest.mark.parametrize("retain_code", [False, True])
def test_floor_of_count_times_ratio_at_full_size(full, filtered, tmp_path, retain_code):
    out = full / "out"
    if retain_code:
        out = tmp_path
        assert main(*arguments(full), "--output_dir", out, "--retain_code") == 0
    frame = pd.read_parquet(out / "filtered_sr.parquet")
    kept = Counter(zip((frame.success_rate * 8).astype(int), frame.data_source.str.contains("code"), strict=True))
    before = groups(full)
    assert sum(before.values()) == synthetic.FULL_SIZE
    for (bucket, code), count in before.items():
        ratio = 1 if retain_code and code and bucket else Fraction(DEFAULTS[bucket])
        assert kept[bucket, code] == floor(count * ratio), (bucket, code)


def test_full_size_takes_seconds(filtered):
    assert filtered[1] < 10


def test_the_same_bits_every_time_and_another_choice_with_another_seed(full, filtered, tmp_path):
    def digest(folder):
        return [hashlib.sha256((folder / f"filtered_sr.{end}").read_bytes()).hexdigest() for end in ("parquet", "png")]

    assert main(*arguments(full), "--output_dir", tmp_path / "again") == 0
    assert digest(tmp_path / "again") == digest(full / "out")
    assert main(*arguments(full), "--output_dir", tmp_path / "other", "--seed", 43) == 0
    first, other = (pd.read_parquet(f / "filtered_sr.parquet") for f in (full / "out", tmp_path / "other"))
    assert len(first) == len(other)
    assert set(first.uid) != set(other.uid)


def test_the_choice_does_not_depend_on_the_file_s_order():
    rows = [candidate(uid, successes=1) for uid in range(100)]
    mixed = random.Random(0).sample(rows, len(rows))
    ratios = data_filter.parse_ratios(",".join(["0.3"] * 9))
    chosen = [
        {r.statistic.uid for r in data_filter.choose(part, ratios, retain_code=False, seed=1)} for part in (rows, mixed)
    ]
    assert chosen[0] == chosen[1]
    assert len(chosen[0]) == 30


def candidate(uid, *, successes):
    statistic = success.Statistic.of(str(uid), "math_dapo", [1.0] * successes + [0.0] * (8 - successes), [0.0] * 8)
    return data_filter.Candidate(uid, "math_dapo", "math", False, statistic)


def test_the_product_is_exact():
    """0.29 × 100 is 28.999999999999996 in floating point."""
    rows = [candidate(uid, successes=4) for uid in range(100)]
    ratios = data_filter.parse_ratios(",".join(["0.29"] * 9))
    assert len(data_filter.choose(rows, ratios, retain_code=False, seed=0)) == 29


def test_the_output_is_the_data_set_s_rows_with_the_statistics(full, filtered):
    before = pd.read_parquet(full / synthetic.TRAINING)
    after = pd.read_parquet(full / "out/filtered_sr.parquet")
    found = success.read(full / synthetic.STATISTICS)
    numbers = after.uid.astype(int)
    assert numbers.is_monotonic_increasing
    for column in before.columns:
        assert all(map(same, after[column], before[column].iloc[numbers]))
    for row in after.itertuples():
        s = found[row.uid]
        assert (row.successes, row.attempts, row.success_rate, row.avg_score, row.keep) == (
            s.successes, s.attempts, s.success_rate, s.avg_score, s.keep,
        )  # fmt: skip


def same(a, b):
    return list(a) == list(b) if not isinstance(a, (str, dict)) else a == b


def test_the_table_says_before_and_after(filtered, full):
    shown = filtered[0]
    after = pd.read_parquet(full / "out/filtered_sr.parquet")
    assert f"30,128 rows, 30,128 with statistics, {len(after):,} kept" in shown
    lines = [line.split() for line in shown.splitlines()]
    for (bucket, code), count in groups(full).items():
        assert any(line[:3] == [f"{bucket}/8", "code" if code else "other", f"{count:,}"] for line in lines)
    for source, count in synthetic.SOURCES.items():
        assert any(line[:3] == [source, f"{count:,}", f"{(after.data_source == source).sum():,}"] for line in lines)
    assert any(line[:2] == ["science", "3,000"] for line in lines)
    assert (full / "out/filtered_sr.png").read_bytes().startswith(b"\x89PNG")


def test_filtering_the_output_again_keeps_its_uids(full, filtered, tmp_path):
    out = full / "out/filtered_sr.parquet"
    options = [
        "--stats",
        full / synthetic.STATISTICS,
        "--output_dir",
        tmp_path,
        "--success_rate_ratios",
        "0,0,0,0,1,0,0,0,0",
    ]
    assert main("--dataset", out, *options) == 0
    first, second = pd.read_parquet(out), pd.read_parquet(tmp_path / "filtered_sr.parquet")
    assert list(second.columns) == list(first.columns)
    assert list(second.uid) == list(first.uid[first.successes == 4])


# ---- small files -----------------------------------------------------------------------------------------------------


def small(folder, *, sources=("math_dapo", "train-code-taco-easy", "math_dapo"), uids=None, lines=None):
    rows = [
        {"data_source": s, "prompt": [{"role": "user", "content": str(i)}], "reward_model": {"ground_truth": "1"}}
        for i, s in enumerate(sources)
    ]
    pd.DataFrame([r | ({"uid": uids[i]} if uids else {}) for i, r in enumerate(rows)]).to_parquet(folder / "d.parquet")
    if lines is None:
        lines = [line(uid=uids[i] if uids else str(i), data_source=s) for i, s in enumerate(sources)]
    (folder / "s.jsonl").write_text(
        "".join((entry if isinstance(entry, str) else json.dumps(entry)) + "\n" for entry in lines)
    )
    return ["--dataset", folder / "d.parquet", "--stats", folder / "s.jsonl", "--output_dir", folder / "out"]


def line(**changes):
    return {
        "uid": "0",
        "data_source": "math_dapo",
        "successes": 3,
        "attempts": 8,
        "success_rate": 0.375,
        "avg_score": 0.375,
        "keep": True,
    } | changes


def test_rows_without_statistics_are_dropped(tmp_path, capsys):
    options = small(tmp_path, lines=[line(uid="2"), line(uid="1", data_source="train-code-taco-easy")])
    assert main(*options) == 0
    assert "3 rows, 2 with statistics, 2 kept" in capsys.readouterr().out
    assert list(pd.read_parquet(tmp_path / "out/filtered_sr.parquet").uid) == ["1", "2"]


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    assert main(*small(tmp_path), "--dry_run") == 0
    assert "dry run: nothing written" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_nothing_kept_is_a_file_without_rows(tmp_path):
    assert main(*small(tmp_path), "--success_rate_ratios", ",".join("0" * 9)) == 0
    assert len(pd.read_parquet(tmp_path / "out/filtered_sr.parquet")) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (data_filter.RATIOS, DEFAULTS),
        ("0.25,0.5,1,1,1,1,1,0.5,0", ["1/4", "1/2", 1, 1, 1, 1, 1, "1/2", 0]),
        ("1.0:0, 0:1,0.125:1,.25:1,0.3751:0.5,0.5:1,0.625:1,0.75:1,0.875:1", [1, 1, 1, "1/2", 1, 1, 1, 1, 0]),
    ],
)
def test_ratios(text, expected):
    assert data_filter.parse_ratios(text) == tuple(map(Fraction, expected))


ALL = "0:1,0.125:1,0.25:1,0.375:1,0.5:1,0.625:1,0.75:1,0.875:1,1:1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,1,1", "must have 9 numbers, for 0/8 to 8/8, got 3"),
        ("1,1,1,1,1,1,1,1,1.1", "must be in [0, 1], got 1.1"),
        ("-0.1,1,1,1,1,1,1,1,1", "must be in [0, 1], got -0.1"),
        ("1,1,1,1,1,1,1,1,x", "'x' is no number"),
        ("1,1,1,1,1,1,1,1,nan", "'nan' is no number"),
        (ALL.replace("0.25:", "0.3:"), "0.3 is no bucket, expected one of 0, 0.125, 0.25"),
        (ALL.replace("0.25:", "1.125:"), "1.125 is no bucket"),
        (ALL.replace("0.25:", "0.125:"), "the bucket 1/8 is given twice, the second time as '0.125:1'"),
        (ALL.replace("0.25:1,", ""), "lacks the buckets 0.25; write e.g. 0.25:1.0"),
        (ALL.replace("0.25:1", "0.25"), "'0.25' must be rate:ratio as the others are"),
        (ALL.replace("0.25:1", "0.25:2"), "must be in [0, 1], got 2"),
    ],
)
def test_bad_ratios_are_named(tmp_path, capsys, text, message):
    with pytest.raises(SystemExit):
        main(*small(tmp_path), f"--success_rate_ratios={text}")
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"lines": [line(success_rate=0.33, successes=2, attempts=6)]},
            "s.jsonl, row 0: success_rate 0.33 is no eighth",
        ),
        ({"lines": [line(success_rate=1.5)]}, "row 0: success_rate 1.5 is no eighth"),
        ({"lines": [line(success_rate=0.5)]}, "row 0: success_rate 0.5 is not successes / attempts = 3/8"),
        ({"lines": [line(successes=9)]}, "row 0: 9 successes in 8 attempts are impossible"),
        ({"lines": [line(attempts=0, successes=0)]}, "row 0: 0 successes in 0 attempts are impossible"),
        ({"lines": [line(successes="3")]}, "row 0: successes must be int, got '3'"),
        ({"lines": [line(keep=1)]}, "row 0: keep must be bool, got 1"),
        ({"lines": [{"uid": "0"}]}, "row 0: the key data_source is missing; found uid"),
        ({"lines": [line(), line()]}, "row 1: uid '0' is there twice"),
        ({"lines": [line(), "{"]}, "row 1: not JSON"),
        ({"lines": ["[]"]}, "row 0: must be an object, got list"),
        ({"lines": []}, "s.jsonl has no rows"),
        (
            {"lines": [line(uid="1")]},
            "are statistics of another data set: uid '1' is of math_dapo there and of train-code-taco-easy in",
        ),
        ({"lines": [line(), line(uid="7")]}, "uid '7' is not in"),
        ({"uids": ["a", "b", "c"], "lines": [line(uid="x")]}, "uid 'x' is not in"),
        ({"uids": ["a", "b", "a"], "lines": [line(uid="a")]}, "d.parquet, row 2: uid 'a' is also that of row 0"),
        ({"sources": ["gsm8k"]}, "d.parquet, row 0: data_source 'gsm8k' is unknown"),
    ],
)
def test_bad_files_are_named(tmp_path, capsys, changes, message):
    assert main(*small(tmp_path, **changes)) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_subset_with_uids_may_have_fewer_rows_than_statistics(tmp_path):
    options = small(tmp_path, uids=["a", "b", "c"], lines=[line(uid="a"), line(uid="z")])
    assert main(*options) == 0


def test_missing_files_and_columns_are_named(tmp_path, capsys):
    options = small(tmp_path)
    assert main(*options[:2], "--stats", tmp_path / "no.jsonl") == 1
    assert "no.jsonl does not exist" in capsys.readouterr().err
    assert main("--dataset", tmp_path / "no.parquet", *options[2:]) == 1
    assert "no.parquet does not exist" in capsys.readouterr().err
    pd.DataFrame({"prompt": ["a"]}).to_parquet(tmp_path / "d.parquet")
    assert main(*options) == 1
    assert "d.parquet: the column data_source is missing; found prompt" in capsys.readouterr().err


def test_statistics_survive_writing_and_an_interrupted_write(tmp_path):
    path = tmp_path / "s.jsonl"
    rows = list(synthetic.statistics_rows(["math_dapo"] * 20, seed=0))
    success.write(path, rows)
    assert list(success.read(path).values()) == rows

    def interrupted():
        yield rows[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        success.write(path, interrupted())
    assert list(success.read(path).values()) == rows
    assert json.loads(path.read_text().splitlines()[0]).keys() == line().keys()


def test_rows_of_json_may_lack_columns(tmp_path):
    small(tmp_path)
    rows = json.loads(pd.read_parquet(tmp_path / "d.parquet").to_json(orient="records"))
    rows[1] |= {"extra_info": {"a": 1}, "note": "late"}
    data = tmp_path / "d.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    subset.take(data, tmp_path / "out.parquet", {0: {}, 1: {}}, {})
    assert pd.read_parquet(tmp_path / "out.parquet").note.dropna().tolist() == ["late"]
    data.write_text(
        "".join(json.dumps(row | {"note": note}) + "\n" for row, note in zip(rows, (1, "a", [2]), strict=True))
    )
    with pytest.raises(ValueError, match=r"d\.jsonl: the values of note do not fit one column"):
        subset.take(data, tmp_path / "out.parquet", {0: {}}, {})


def test_rows_that_cannot_be_read_are_left_out_on_request_and_the_others_keep_their_numbers(tmp_path, capsys):
    rows = [{"data_source": "math_dapo", "prompt": str(number)} for number in range(5)]
    lines = [json.dumps(row) for row in rows]
    lines[1] = "{"
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    found = [success.Statistic.of(str(n), "math_dapo", [1.0, 0.0], [1.0, 0.0]) for n in (0, 2, 3, 4)]
    success.write(tmp_path / "stats.jsonl", found)
    options = ["--dataset", tmp_path / "rows.jsonl", "--stats", tmp_path / "stats.jsonl", "--output_dir", tmp_path]
    assert main(*options) == 1
    assert "rows.jsonl, row 1: not JSON" in capsys.readouterr().err
    assert main(*options, "--skip_broken_rows") == 0
    kept = pd.read_parquet(tmp_path / data_filter.OUTPUT)
    assert list(kept["prompt"]) == list(kept["uid"]) == ["0", "2", "3", "4"]
