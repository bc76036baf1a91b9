"""The report: one HTML file that needs nothing but a browser.

Trajectories are hostile text. The page holds them as JSON in compressed blocks; the browser unpacks a block when one of
its trajectories is opened. The script puts them on the page as text only. A content security policy forbids all other
scripts and all requests.
"""

import base64
import gzip
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader
from tqdm import tqdm

from verl_cleaner.report import families, sampling
from verl_cleaner.report.about import about
from verl_cleaner.report.charts import MAX_POINTS, all_metrics, chart_data
from verl_cleaner.report.conversation import Block
from verl_cleaner.report.diff import diff
from verl_cleaner.report.grouping import Group, groups
from verl_cleaner.report.run import Run
from verl_cleaner.report.summary import differences, summary
from verl_cleaner.report.trajectory import Tokens, Trajectory

MAX_BYTES = 8_000_000
"""Most bytes of trajectories and metrics together, compressed. Groups of rollouts are left out until they fit."""
MAX_TEXT = 40_000
"""Most characters of a block of text; the middle of a longer text is left out."""
MAX_TOKENS = 6_000
_CHUNK = 40
"""Trajectories of one compressed block."""
_SCRIPTS = ("charts.js", "overview.js", "conversation.js", "inspector.js", "share.js", "app.js")


@dataclass(frozen=True, slots=True)
class Options:
    """refresh: seconds after which the page loads itself again; 0 = never. version: set by `serve`; the page loads
    itself again when the server has another version. evaluations: rows of `evaluations.read`. alone: the page holds a
    few trajectories, and no curves."""

    title: str = "CLEANER run report"
    refresh: int = 0
    version: str = ""
    evaluations: Sequence[dict[str, Any]] = ()
    alone: bool = False


def render(runs: Sequence[Run], options: Options | None = None) -> str:
    """The page. The same runs give the same page."""
    options = options or Options()
    shown = [(number, t) for number, run in enumerate(runs) for t in run.trajectories]
    bodies = [_body(t) for _, t in tqdm(shown, desc="laying out trajectories", delay=3, leave=False, disable=None)]
    places, share = list(range(len(shown))), 1.0
    metrics = _metrics(runs)
    room = max(0, MAX_BYTES - len(metrics))
    while True:
        chunks = [_pack([bodies[i] for i in places[at : at + _CHUNK]]) for at in range(0, len(places), _CHUNK)]
        size = sum(map(len, chunks))
        if size <= room:
            break
        share *= 0.9 * room / size
        places = [i for i in places if _fraction(shown[i][1]) < share]
    kept = [shown[i] for i in places]
    warnings = [text for run in runs for text in run.said()]
    data = {
        "title": options.title,
        "runs": [_run(run) for run in runs],
        "views": _views(runs),
        "evaluations": list(options.evaluations),
        "metrics": len(chunks),
        "index": _index(kept),
        "chunk": _CHUNK,
        "refresh": options.refresh,
        "version": options.version,
        "alone": options.alone,
    }
    return _html(_finite(data), [*chunks, metrics], warnings, options)


def _views(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The page's views: every run alone, and, if some differ only in the seed, the groups."""
    alone = [Group(run.name, (number,)) for number, run in enumerate(runs)]
    together = groups(runs)
    return [_view(view, runs) for view in ([alone, together] if len(together) < len(runs) else [alone])]


def _view(view: Sequence[Group], runs: Sequence[Run]) -> dict[str, Any]:
    members = [[runs[number] for number in group.numbers] for group in view]
    return {
        "groups": [{"name": group.name, "runs": list(group.numbers)} for group in view],
        "charts": chart_data(members),
        "summary": summary(members),
        "differences": differences(members),
        "families": [families.rows([run.held_out for run in runs if run.held_out is not None]) for runs in members],
    }


def _metrics(runs: Sequence[Run]) -> str:
    """All metrics, compressed, at most a third of MAX_BYTES. If they are larger, each has fewer points."""
    points = MAX_POINTS
    while len(packed := _pack(all_metrics(runs, points))) > MAX_BYTES // 3 and points > 2:
        points //= 2
    return packed


def _html(data: dict[str, Any], chunks: Sequence[str], warnings: Sequence[str], options: Options) -> str:
    here = files("verl_cleaner.report") / "assets"
    script = "\n".join((here / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    environment = Environment(loader=PackageLoader("verl_cleaner.report", "assets"), autoescape=True)
    page = environment.get_template("page.html.jinja").render(
        title=options.title,
        served=bool(options.version),
        warnings=warnings,
        data=data,
        chunks=chunks,
        style=(here / "page.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    return page.encode("utf-8", "replace").decode()


def _fraction(trajectory: Trajectory) -> float:
    """A number in [0, 1) that is the same for all trajectories of a prompt in all runs."""
    name = sampling.order(trajectory.split, trajectory.step, "\n".join(block.text for block in trajectory.prompt))
    return int(name[:8], 16) / 16**8


def _run(run: Run) -> dict[str, Any]:
    return {
        "name": run.name,
        "config": run.config,
        "versions": run.versions,
        "about": about(run),
        "steps": [min(run.steps), max(run.steps)] if run.steps else None,
        "total": run.total,
    }


def _index(trajectories: Sequence[tuple[int, Trajectory]]) -> dict[str, list[Any]]:
    """The columns that list and filters need. Row i belongs to trajectory i of the blocks."""
    prompts: dict[str, int] = {}
    kinds: dict[str, int] = {}
    columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    for number, t in trajectories:
        question = next((block.text for block in reversed(t.prompt)), "")
        prompt = prompts.setdefault(question, len(prompts))
        row = {
            "run": number,
            "split": str(t.split),
            "step": t.step,
            "uid": t.uid[:12],
            "rollout": t.rollout,
            "prompt": prompt,
            "score": t.score,
            "acc": t.acc,
            "kinds": [kinds.setdefault(kind, len(kinds)) for kind in dict.fromkeys(t.kinds)],
            "repaired": int(t.repaired),
            "retries": len(t.retries),
            "turns": t.turns,
        }
        for name, value in row.items():
            columns[name].append(value)
    return columns | {"prompts": [_shorten(text, 140) for text in prompts], "kind_names": list(kinds)}


_COLUMNS = ("run", "split", "step", "uid", "rollout", "prompt", "score", "acc", "kinds", "repaired", "retries", "turns")


def _body(t: Trajectory) -> dict[str, Any]:
    return {
        "prompt": [_block(block) for block in t.prompt],
        "blocks": [_block(block) for block in t.blocks],
        "truth": _shorten(t.ground_truth, 2000),
        "attempts": t.attempts,
        "retries": [_retry(retry) for retry in t.retries],
        "tokens": _tokens(t.tokens) if t.tokens else None,
        "exact": t.exact,
    }


def _block(block: Block) -> list[Any]:
    return [str(block.kind), _shorten(block.text), block.turn, block.tool, _shorten(block.code)]


_RETRY = (
    *("turn", "retry", "kinds", "result", "strategy", "similarity", "threshold"),
    *("generated", "discarded", "seconds", "gap"),
)


def _retry(row: dict[str, Any]) -> dict[str, Any]:
    lines = diff(_shorten(row["failed_call"]), _shorten(row["new_call"])) if row["new_call"] else []
    return {name: row[name] for name in _RETRY} | {
        "error": _shorten(row["error"], 8000),
        "malformed": _shorten(row["malformed"], 8000),
        "failed": "" if lines else _shorten(row["failed_call"]),
        "diff": [[line.sign, [[int(changed), text] for changed, text in line.parts]] for line in lines],
    }


def _tokens(tokens: Tokens) -> dict[str, Any]:
    def rounded(values: list[float] | None) -> list[float] | None:
        return None if values is None else [round(value, 2) for value in values[:MAX_TOKENS]]

    return {
        "texts": [_shorten(text, 400) for text in tokens.texts[:MAX_TOKENS]],
        "mask": tokens.mask[:MAX_TOKENS],
        "over": tokens.overwritten[:MAX_TOKENS],
        "old": rounded(tokens.old_log_probs),
        "rollout": rounded(tokens.rollout_log_probs),
        "advantage": rounded(tokens.advantages),
        "more": max(0, len(tokens.texts) - MAX_TOKENS),
    }


def _shorten(text: str, limit: int = MAX_TEXT) -> str:
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters left out …]\n{text[-half:]}"


def _pack(value: Any) -> str:
    """Compressed JSON in base64. mtime is 0, so that equal data give equal text."""
    try:
        raw = json.dumps(value, separators=(",", ":"), allow_nan=False)
    except ValueError:
        raw = json.dumps(_finite(value), separators=(",", ":"))
    return base64.b64encode(gzip.compress(raw.encode(), 6, mtime=0)).decode()


def _finite(value: Any) -> Any:
    """The value with None for NaN and infinities, which JSON does not have."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value
