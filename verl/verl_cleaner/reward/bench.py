"""How many code rewards a second: `python -m verl_cleaner.reward.bench [--url URL] [--rewards 1024] [--tests 10]`.

Made-up stdin tasks, whose programs differ and are right, wrong in half the tests or wrong in all, through a running
judge. Client and judge share the machine's cores unless the judge is elsewhere; --workers is the number of processes
that ask, as VeRL's reward workers do.
"""

import argparse
import asyncio
import json
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from code_judge.client import judge_url
from verl_cleaner.reward.router import compute_score

_PROGRAMS = ("print(sum(numbers))", "print(sum(numbers) if numbers[0] % 2 else 0)", "print(-1)")
"""Expected score 1, 1/2 and 0."""


def task(number: int, tests: int) -> dict[str, Any]:
    program = f"# {number}\nnumbers = list(map(int, input().split()))\n{_PROGRAMS[number % 3]}"
    inputs = [f"{test} {number} {test * number}" for test in range(tests)]
    truth = {"inputs": inputs, "outputs": [str(sum(map(int, text.split()))) for text in inputs]}
    response = f"Here it is.\n```python\n{program}\n```"
    return {"data_source": "train-code-taco", "solution_str": response, "ground_truth": json.dumps(truth)}


def run(numbers: range, tests: int, url: str) -> list[float]:
    """The scores of these tasks, all asked for at once."""

    async def all_of_them() -> list[float]:
        rewards = [compute_score(**task(number, tests), judge_url=url) for number in numbers]
        return [reward["score"] for reward in await asyncio.gather(*rewards)]

    return asyncio.run(all_of_them())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default=judge_url(), help="of the judge (default: %(default)s)")
    parser.add_argument("--rewards", type=int, default=1024)
    parser.add_argument("--tests", type=int, default=10, help="of one reward")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    start = time.monotonic()
    shares = [range(first, options.rewards, options.workers) for first in range(options.workers)]
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(run, shares, [options.tests] * len(shares), [options.url] * len(shares)))
    seconds = time.monotonic() - start
    scores = [score for part in parts for score in part]
    executions = options.rewards * options.tests
    print(
        f"{options.rewards} rewards of {options.tests} tests in {seconds:.1f} s: {options.rewards / seconds:.1f} "
        f"rewards/s, {executions / seconds:.0f} programs/s; mean score {sum(scores) / len(scores):.3f}"
    )


if __name__ == "__main__":
    main()
