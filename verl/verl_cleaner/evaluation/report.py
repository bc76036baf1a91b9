"""The report of an evaluation: JSON with everything, Markdown to read, and a plot.

With both arms there, they are compared on the problems that both have: the difference of mean@n with a paired interval,
and pass@k and maj@k at equal generated tokens. Retries cost tokens that the bare policy could spend on further samples:
each arm gets as many samples of a problem as the cheaper arm's tokens buy it, and for the rest one more by chance.
Where they do not buy one sample of each arm, there is no such comparison.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from verl_cleaner.evaluation.runner import ARMS, PLAIN, ROLLBACK, EvaluationError, problem_of
from verl_cleaner.evaluation.statistics import between, maj_at_k, pass_at_k, powers
from verl_cleaner.records.trajectories import Trajectory, read_folder
from verl_cleaner.report.intervals import Estimate, estimate
from verl_cleaner.report.tables import markdown_table

_COUNTS = {
    "turns": "turns",
    "response_tokens": "response_tokens",
    "generated_tokens": "sampled_tokens",
    "discarded_tokens": "discarded_tokens",
    "tool_calls": "tool_calls",
    "tool_failures": "tool_failures",
    "failures_left": "failures_left",
    "rollbacks": "rollbacks",
    "recovered": "recovered",
}
"""Name in the report -> attribute of `Trajectory`."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Of one problem, in the order of their numbers, without the texts. counts: means over the samples, by _COUNTS."""

    right: tuple[bool, ...]
    verified: tuple[float, ...]
    answers: tuple[str | None, ...]
    reasons: tuple[str, ...]
    counts: Mapping[str, float]

    @property
    def accuracy(self) -> float:
        return sum(self.right) / len(self.right)

    @property
    def votes(self) -> bool:
        """Whether the answers can be voted on; programs cannot."""
        return any(answer is not None for answer in self.answers)


Suite = Mapping[str, Samples]
"""Of one suite and arm, by problem."""


def read(out: Path) -> dict[str, dict[str, Suite]]:
    """By suite and arm. Raises EvaluationError where there is nothing to report."""
    suites: dict[str, dict[str, Suite]] = defaultdict(dict)
    for arm in ARMS:
        found: dict[tuple[str, str], list[Trajectory]] = defaultdict(list)
        for trajectory in read_folder(out / arm / "trajectories", texts=False):
            found[problem_of(trajectory)].append(trajectory)
        for (suite, problem), samples in found.items():
            arms = suites[suite].setdefault(arm, {})
            assert isinstance(arms, dict)
            arms[problem] = _samples(samples)
    if not suites:
        raise EvaluationError(f"{out} holds no trajectories; expected {out}/rollback/trajectories/0.parquet or plain/…")
    return dict(suites)


def _samples(found: Sequence[Trajectory]) -> Samples:
    found = sorted(found, key=lambda t: t.rollout)
    # A reward function of the user's own may say no more than a score.
    right = tuple((t.acc if t.acc is not None else t.score or 0.0) >= 1.0 for t in found)
    return Samples(
        right,
        tuple(float(r) if t.verified is None else t.verified for t, r in zip(found, right, strict=True)),
        tuple(t.pred for t in found),
        tuple(t.reason or "" for t in found),
        {name: sum(getattr(t, attribute) for t in found) / len(found) for name, attribute in _COUNTS.items()},
    )


def summarise(suite: Suite) -> dict[str, Any]:
    """Everything about one suite and arm."""
    problems = list(suite.values())
    samples = min(len(problem.right) for problem in problems)
    summary: dict[str, Any] = {
        "problems": len(problems),
        "samples": samples,
        "mean": asdict(estimate([problem.accuracy for problem in problems])),
        "verified": asdict(estimate([sum(p.verified) / len(p.verified) for p in problems])),
        "pass": {k: asdict(estimate(_pass(suite, k))) for k in powers(samples)},
        "maj": {k: asdict(estimate(_maj(suite, k))) for k in powers(samples)} if _votes(suite) else {},
        "reasons": dict(Counter(reason or "right" for problem in problems for reason in problem.reasons).most_common()),
    }
    return summary | {name: sum(p.counts[name] for p in problems) / len(problems) for name in _COUNTS}


def _votes(suite: Suite) -> bool:
    return any(problem.votes for problem in suite.values())


def _pass(suite: Suite, k: int) -> list[float]:
    return [pass_at_k(sum(problem.right), len(problem.right), k) for problem in suite.values()]


def _maj(suite: Suite, k: int) -> list[float]:
    return [maj_at_k(problem.answers, problem.right, k, seed=name) for name, problem in suite.items()]


def compare(arms: Mapping[str, Suite]) -> dict[str, Any]:
    """Rollback against the bare policy on the problems that both have. equal_tokens: None where there is no such k."""
    common = sorted(set(arms[ROLLBACK]) & set(arms[PLAIN]))
    suites = {arm: {problem: arms[arm][problem] for problem in common} for arm in ARMS}
    gains = [suites[ROLLBACK][p].accuracy - suites[PLAIN][p].accuracy for p in common]
    samples = {arm: min(len(problem.right) for problem in suite.values()) for arm, suite in suites.items()}
    tokens = {arm: _tokens(suite) for arm, suite in suites.items()}
    budget = min(samples[arm] * tokens[arm] for arm in ARMS)
    found = {"problems": len(common), "gain": asdict(estimate(gains)), "tokens_a_problem": budget}
    if budget < max(tokens.values()):
        return found | {"equal_tokens": None}
    equal: dict[str, dict[str, Any]] = {}
    for arm, suite in suites.items():
        # Rounding must not ask for more samples than there are.
        k = min(samples[arm], round(budget / tokens[arm], 6))
        equal[arm] = {"samples": k, "tokens": k * tokens[arm]}
        equal[arm]["pass"] = asdict(estimate(between(partial(_pass, suite), k)))
        if _votes(suite):
            equal[arm]["maj"] = asdict(estimate(between(partial(_maj, suite), k)))
    return found | {"equal_tokens": equal}


def _tokens(suite: Suite) -> float:
    """Generated tokens of a sample, at least one."""
    return max(1.0, sum(problem.counts["generated_tokens"] for problem in suite.values()) / len(suite))


def build(out: Path) -> dict[str, Any]:
    """The report as data."""
    settings = out / "settings.json"
    suites = read(out)
    return {
        "settings": json.loads(settings.read_text()) if settings.exists() else {},
        "suites": {name: _of_suite(arms) for name, arms in suites.items()},
    }


def _of_suite(arms: Mapping[str, Suite]) -> dict[str, Any]:
    comparable = set(arms.get(PLAIN, ())) & set(arms.get(ROLLBACK, ()))
    problems = dict.fromkeys(problem for suite in arms.values() for problem in suite)
    return {
        "arms": {arm: summarise(suite) for arm, suite in arms.items()},
        "comparison": compare(arms) if comparable else None,
        "problems": [
            {"problem": p, **{arm: _of_problem(suite[p]) for arm, suite in arms.items() if p in suite}}
            for p in problems
        ],
    }


def _of_problem(samples: Samples) -> dict[str, Any]:
    counts = {name: round(value, 2) for name, value in samples.counts.items()}
    return {"samples": len(samples.right), "right": sum(samples.right), "verified": sum(samples.verified)} | counts


def write(out: Path) -> dict[str, Any]:
    """Write report.json, report.md and report.png into `out`; returns the report."""
    from verl_cleaner.evaluation.plot import draw

    report = build(out)
    (out / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    (out / "report.md").write_text(markdown(report))
    draw(report, out / "report.png")
    return report


def markdown(report: Mapping[str, Any]) -> str:
    lines = [f"# Evaluation of {report['settings'].get('model', 'a model')}", ""]
    lines += ["Percent with 95 % intervals over the problems; tokens, calls and turns are means of a trajectory.", ""]
    for name, suite in report["suites"].items():
        lines += [f"## {Path(name).name}", "", _table(suite["arms"]), ""]
        if suite["comparison"] is not None:
            lines += [*_comparison(suite["comparison"]), ""]
    return "\n".join([*lines, "![pass@k and maj@k over generated tokens](report.png)", ""])


def _table(arms: Mapping[str, Mapping[str, Any]]) -> str:
    def row(title: str, cell: Any) -> list[str]:
        return [title, *(cell(summary) for summary in arms.values())]

    def of(entry: Mapping[str, float] | None) -> str:
        return str(Estimate(**entry)) if entry else "–"

    rows = [["", *arms]]
    rows.append(row("problems × samples", lambda s: f"{s['problems']} × {s['samples']}"))
    rows.append(row("mean@n, strict", lambda s: of(s["mean"])))
    rows.append(row("mean@n, lenient (math-verify)", lambda s: of(s["verified"])))
    for kind in ("pass", "maj"):
        for k in dict.fromkeys(k for summary in arms.values() for k in summary[kind]):
            rows.append(row(f"{kind}@{k}", lambda s, kind=kind, k=k: of(s[kind].get(k))))
    for key in _COUNTS:
        rows.append(row(key.replace("_", " "), lambda s, key=key: f"{s[key]:.2f}"))
    rows.append(row("why not right", lambda s: ", ".join(f"{r} {n}" for r, n in s["reasons"].items() if r != "right")))
    return markdown_table(rows)


def _comparison(comparison: Mapping[str, Any]) -> list[str]:
    lines = [
        f"Rollback − plain, mean@n on the same {comparison['problems']} problems: "
        f"{Estimate(**comparison['gain'])} points.",
        "",
    ]
    if comparison["equal_tokens"] is None:
        return [
            *lines,
            f"Not comparable at equal tokens: the cheaper arm's {comparison['tokens_a_problem']:.0f} generated tokens "
            "a problem are less than one sample of the other costs; more samples are needed.",
        ]
    lines += [
        f"At equal generated tokens, {comparison['tokens_a_problem']:.0f} a problem:",
        "",
    ]
    rows = [["", "samples", "tokens", "pass", "maj"]]
    for arm, equal in comparison["equal_tokens"].items():
        maj = str(Estimate(**equal["maj"])) if "maj" in equal else "–"
        rows.append([arm, f"{equal['samples']:.2f}", f"{equal['tokens']:.0f}", str(Estimate(**equal["pass"])), maj])
    return [*lines, markdown_table(rows)]
