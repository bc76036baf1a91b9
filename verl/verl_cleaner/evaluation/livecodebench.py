"""LiveCodeBench's custom-evaluation file: `python -m verl_cleaner.evaluation.livecodebench DUMP --out FILE [--score]`.

With --score the programs also run here, through the judge. What the benchmark's loader (`custom_evaluator`) wants, and
`check` checks before the file is written:

    a JSON list, as long as the slice of the benchmark that it is compared with
    each entry {"question_id": text, "code_list": [code, …]}, each question once
    in the order of question_id as text, in which the loader takes the benchmark's questions
    as many programs for every question, at least one; each a text taken as it is, without Markdown fences
"""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from verl_cleaner.evaluation import programs
from verl_cleaner.evaluation.questions import Benchmark, Codes

_OFFICIAL = (
    "python -m lcb_runner.runner.custom_evaluator --custom_output_file FILE --scenario codegeneration "
    "--release_version release_v6 --start_date 2025-02-01 --end_date 2025-05-31"
)


def entries(codes: Codes) -> list[dict[str, Any]]:
    return [{"question_id": name, "code_list": codes[name]} for name in sorted(codes)]


def check(file: Any, questions: Collection[str]) -> None:
    """Raises ValueError: what the benchmark's loader would refuse, or silently compare with another question."""
    if not isinstance(file, list) or not all(isinstance(entry, dict) for entry in file):
        raise ValueError("the file must be a JSON list of objects")
    for number, entry in enumerate(file):
        if set(entry) != {"question_id", "code_list"} or not isinstance(entry["question_id"], str):
            raise ValueError(f"entry {number} must have question_id, a text, and code_list, got {str(entry)[:80]}")
        _check_codes(entry["question_id"], entry["code_list"])
    names = [entry["question_id"] for entry in file]
    if len(names) != len(questions):
        raise ValueError(f"the file has {len(names)} questions, the slice of the benchmark {len(questions)}")
    if names != sorted(names):
        raise ValueError("the questions are not in the order of question_id as text")
    wrong = sorted(set(questions) ^ set(names))
    if wrong:
        raise ValueError(
            f"the questions are not those of the slice; {wrong[0]} is in only one of them, or is there twice"
        )
    numbers = {len(entry["code_list"]) for entry in file}
    if len(numbers) > 1:
        raise ValueError(f"questions have different numbers of programs: {', '.join(map(str, sorted(numbers)))}")


def _check_codes(name: str, codes: Any) -> None:
    if not isinstance(codes, Sequence) or isinstance(codes, str) or not codes:
        raise ValueError(f"question {name}: code_list must be a list with at least one program")
    for code in codes:
        if not isinstance(code, str):
            raise ValueError(f"question {name}: a program must be a text, got {type(code).__name__}")
        if code.lstrip().startswith("```"):
            raise ValueError(f"question {name}: a program must come without Markdown fences, got {code[:40]!r}")


def write(path: Path, codes: Codes) -> None:
    """Raises ValueError as `check`."""
    file = entries(codes)
    check(file, codes)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(file, ensure_ascii=False, indent=1) + "\n", encoding="utf-8", errors="replace")


BENCHMARK = Benchmark("livecodebench", "problem", "livecodebench.json", write, _OFFICIAL)

if __name__ == "__main__":
    programs.main(None, BENCHMARK)
