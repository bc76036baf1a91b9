"""Made-up files of every set that a user fetches: `python -m verl_cleaner.dataset.synthetic --out DIR`.

DIR/Open-AgentRL-30K/Open-AgentRL-30K.parquet                                the sources in their true shares
DIR/Open-AgentRL-30K/Open-AgentRL-30K.filtered.parquet.success.jsonl         statistics of 8 attempts, made up as well
DIR/Open-AgentRL-Eval/{aime2024,aime2025,gpqa-diamond,livecodebench-v6}/…    30, 30, 198 and 175 rows

The layout is the one of `dataset/README.md`: with DIR=dataset every command of the documentation can be tried. Answers
and tests are right, so a solver could score.
"""

import argparse
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from verl_cleaner.dataset import success

FULL_SIZE = 30_128
SOURCES = {
    "math_dapo": 17_917,
    "mega-science": 3_000,
    "train-math-deepscaler": 2_901,
    "train-math-numinamath1.5_amc_aime": 2_000,
    "train-code-taco-medium": 2_000,
    "train-code-taco-hard": 1_455,
    "train-code-leetcode-Medium": 750,
    "test-code-leetcode-Medium": 105,
}
"""Rows by source in the full set."""

TRAINING = Path("Open-AgentRL-30K/Open-AgentRL-30K.parquet")
STATISTICS = Path("Open-AgentRL-30K/Open-AgentRL-30K.filtered.parquet.success.jsonl")
EVALUATION = {
    "aime2024": Path("Open-AgentRL-Eval/aime2024/aime_2024_problems.parquet"),
    "aime2025": Path("Open-AgentRL-Eval/aime2025/aime_2025_problems.parquet"),
    "gpqa": Path("Open-AgentRL-Eval/gpqa-diamond/gpqa_diamond.parquet"),
    "lcb": Path("Open-AgentRL-Eval/livecodebench-v6/lcb_v6_2502_2505.parquet"),
}
_CHUNK = 2_000


def write_all(out: Path, *, rows: int = FULL_SIZE, seed: int = 0, test_bytes: int = 0) -> None:
    """test_bytes: length of every input of the stdin tests, to see what large tests cost.

    Raises:
        ValueError: a file is there already.
    """
    there = [path for path in (TRAINING, STATISTICS, *EVALUATION.values()) if (out / path).exists()]
    if there:
        raise ValueError(f"{out / there[0]} is there already, and made-up data replaces nothing; name another folder")
    _write(out / TRAINING, training_rows(rows, seed=seed, test_bytes=test_bytes), rows)
    sources = (row["data_source"] for row in training_rows(rows, seed=seed))
    success.write(out / STATISTICS, statistics_rows(sources, seed=seed))
    makers = {"aime2024": _aime2024, "aime2025": _aime2025, "gpqa": _gpqa, "lcb": _lcb}
    for name, number in {"aime2024": 30, "aime2025": 30, "gpqa": 198, "lcb": 175}.items():
        rng = random.Random(f"{seed} {name}")
        _write(out / EVALUATION[name], (makers[name](rng, index) for index in range(number)), number)


def training_rows(rows: int, *, seed: int, test_bytes: int = 0) -> Iterator[dict[str, Any]]:
    """Sources in shares of the full set, mixed."""
    names = [name for name, count in SOURCES.items() for _ in range(count)]
    random.Random(f"{seed} order").shuffle(names)
    rng = random.Random(f"{seed} rows")
    for index in range(rows):
        source = names[index % len(names)]
        problem, answer = _problem(source, rng, test_bytes)
        yield {
            "data_source": source,
            "prompt": [{"role": "user", "content": problem}],
            "ability": "code" if "code" in source else "science" if "science" in source else "math",
            "reward_model": {"ground_truth": answer, "style": "rule"},
            "extra_info": {"index": index, "split": "train"},
        }


def statistics_rows(sources: Iterable[str], *, seed: int, attempts: int = 8) -> Iterator[success.Statistic]:
    """A line a row; hard and easy problems are as frequent as others."""
    rng = random.Random(f"{seed} statistics")
    for index, source in enumerate(sources):
        scores = [float(rng.random() < 0.5) for _ in range(attempts)]
        scores = rng.choice([scores, [0.0] * attempts, [1.0] * attempts, scores])
        yield success.Statistic.of(str(index), source, scores, scores)


# ---- problems --------------------------------------------------------------------------------------------------------


def _problem(source: str, rng: random.Random, test_bytes: int) -> tuple[str, str]:
    """(text, ground truth)"""
    if "leetcode" in source:
        return _harness(rng)
    if "taco" in source:
        return _function(rng) if rng.random() < 0.3 else _stdin(rng, test_bytes)
    a, b, c = (rng.randrange(2, 10_000) for _ in range(3))
    text = f"Let $a = {a}$, $b = {b}$ and $c = {c}$. Find the remainder when $a^2 + b c$ is divided by $1009$."
    text += " " + " ".join(f"The number {rng.randrange(10**6)} plays no role." for _ in range(rng.randrange(12)))
    answer = str((a * a + b * c) % 1009)
    if source.startswith("train-math"):
        return text, answer
    # As the release words them.
    talk = "The tool could be used for more precise and efficient calculation."
    note = "**Note: You should first form a plan, then utilize the tools to solve the problem.**"
    end = "Once you are sure of the final answer, do not call the tools again and give it as \\boxed{answer}."
    return f"Analyze and solve the following problem step by step.\n\n{text}\n\n{talk}\n\n{note}\n\n{end}", answer


def _stdin(rng: random.Random, test_bytes: int) -> tuple[str, str]:
    cases = [[rng.randrange(1000) for _ in range(max(3, test_bytes // 4))] for _ in range(10)]
    inputs = [f"{len(case)}\n{' '.join(map(str, case))}\n" for case in cases]
    tests = {"inputs": inputs, "outputs": [f"{sum(case)}\n" for case in cases]}
    return "Read n and then n integers from standard input. Print their sum.", json.dumps(tests)


def _function(rng: random.Random) -> tuple[str, str]:
    cases = [[rng.randrange(1000), rng.randrange(1000)] for _ in range(10)]
    tests = {"fn_name": "larger", "inputs": cases, "outputs": [[max(case)] for case in cases]}
    return "Write a function `larger(a, b)` that returns the larger of two integers.", json.dumps(tests)


def _harness(rng: random.Random) -> tuple[str, str]:
    pairs = [(rng.randrange(100), rng.randrange(100)) for _ in range(10)]
    lines = [f"    assert candidate({a}, {b}) == {a * b}" for a, b in pairs]
    tests = {
        "entry_point": "Solution().product",
        "import_prefix": "from typing import *\n",
        "test_code": "\n".join(["def check(candidate):", *lines]),
    }
    text = "Complete `class Solution` with a method `product(self, a: int, b: int) -> int`, the product of a and b."
    return text, json.dumps(tests)


def _aime2024(rng: random.Random, index: int) -> dict[str, Any]:
    text, answer = _problem("train-math", rng, 0)
    row = {"ID": f"2024-I-{index + 1}", "Problem": text, "Solution": f"It is {answer}.", "Answer": int(answer)}
    return row | {"data_source": "AIME2024"}


def _aime2025(rng: random.Random, index: int) -> dict[str, Any]:
    text, answer = _problem("train-math", rng, 0)
    return {"problem": text, "answer": answer, "data_source": "AIME2025"}


def _gpqa(rng: random.Random, index: int) -> dict[str, Any]:
    value, letter = rng.randrange(100), rng.randrange(4)
    options = [f"({chr(65 + i)}) {value + i - letter}" for i in range(4)]
    text = f"A body weighs {value} kg. What is its mass in kg?\n" + "\n".join(options)
    domain = rng.choice(["Physics", "Chemistry", "Biology"])
    return {"problem": text, "solution": chr(65 + letter), "domain": domain, "data_source": "gpqa_diamond"}


def _lcb(rng: random.Random, index: int) -> dict[str, Any]:
    text, tests = _stdin(rng, 0)
    return {
        "problem": text,
        "ability": "code",
        "data_source": "LiveCodeBench_v6",
        "question_id": f"abc{300 + index}_a",
        "reward_model": json.dumps({"ground_truth": json.loads(tests), "style": "rule"}),
        "extra_info": json.dumps({"index": index, "difficulty": "easy"}),
    }


def _write(path: Path, rows: Iterable[dict[str, Any]], total: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    writer, chunk = None, []
    try:
        for number, row in enumerate(tqdm(rows, path.name, total=total, mininterval=2), start=1):
            chunk.append(row)
            if len(chunk) == _CHUNK or number == total:
                table = pa.Table.from_pylist(chunk)
                writer = writer or pq.ParquetWriter(path, table.schema)
                writer.write_table(table)
                chunk = []
    finally:
        if writer is not None:
            writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=FULL_SIZE, help="of the training set (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--test_bytes", type=int, default=0, help="length of every input of the stdin tests")
    options = parser.parse_args()
    try:
        write_all(options.out, rows=options.rows, seed=options.seed, test_bytes=options.test_bytes)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
