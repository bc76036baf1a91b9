"""Runs as a training writes them, small or large, made up: metrics, VeRL's dumps, ours."""

import json
import random
from pathlib import Path

from verl_cleaner.records import rollbacks as rollback_dump
from verl_cleaner.records import trajectories as trajectory_dump
from verl_cleaner.saar.record import RECORD_FIELD

HOSTILE = (
    "<script>document.title='owned'</script></script><img src=x onerror=\"document.title='owned'\">",
    "\x1b[31mred\x1b[0m \x1b]0;owned\x07 \x9b31m",
    "abc\u202edcba\u202c \u2067x\u2069 \u200e",
    "line\u2028separator\u2029 {{ 7*7 }} ${7*7} <!-- <![CDATA[",
    "lone \ud83d surrogate \ufffe \x00",
    "x" * 1_000_000,
)


def metrics(step, rng, *, rollback):
    share = min(1.0, 0.4 + 0.03 * step)
    values = {
        "critic/score/acc": share,
        "critic/score/mean": share,
        "tool_calls/sampled_failures_per_trajectory": 0.6 - 0.02 * step,
        "tool_calls/failures_per_trajectory": 0.02 if rollback else 0.6 - 0.02 * step,
        "tool_calls/first_attempt_success_rate": share,
        "tool_calls/failure_reason/NameError": float(rng.randint(10, 20)),
        "tool_calls/failure_reason/timeout": float(rng.randint(0, 5)),
        "tool_calls/latency_s/p50": 0.01,
        "tool_calls/latency_s/p95": 0.05,
        "tokens/kept": 9000.0,
        "tokens/discarded": 900.0 if rollback else 0.0,
        "timing_s/step": 5.0,
        "timing_s/gen": 3.0,
        "timing_s/update_actor": 1.5,
    }
    if rollback:
        values |= {
            "tokens/overwritten_share": 0.1,
            "rollback/global_recovery_rate": 0.95,
            "rollback/retries/1": 20.0,
            "rollback/retries/2": 4.0,
            "rollback/similarity/from_0.4": 5.0,
            "rollback/similarity/from_0.8": 19.0,
            "rollback/similarity/mean": 0.8,
            "rollback/gap/mean": -2.0,
            "rollback/gap/p05": -9.0,
            "rollback/gap/p95": 0.5,
            "rollback/result/overwritten": 24.0,
        }
    if step % 4 == 0:
        values["val-core/sums/acc/mean@1"] = share
        values["val-core/primes/acc/mean@1"] = share / 2
        values["val-aux/tool_calls/failures_per_trajectory"] = 0.7 - 0.01 * step
        values["val-aux/tool_calls/sampled_failures_per_trajectory"] = 0.7 - 0.01 * step
        values["val-aux/tool_calls/first_attempt_success_rate"] = share - 0.1
    return values


def write_validation(folder: Path, *, steps=(0, 3), tasks=20, samples=2, seed=0):
    """Our table of validations in two families, beside VeRL's dump; sums get better, primes stay as they are."""
    rng = random.Random(seed)
    (folder / "validation").mkdir(parents=True)
    for step in steps:
        rows, plain = [], []
        for task in range(tasks):
            family = ("sums", "primes")[task % 2]
            chance = 0.3 + 0.6 * (family == "sums" and step == steps[-1])
            for sample in range(samples):
                uid, acc = f"v{step}-{task}", float(rng.random() < chance)
                rows.append(
                    trajectory_dump.Trajectory(
                        step=step, uid=uid, rollout=sample, output=0, data_source=family, problem=str(task), acc=acc
                    )
                )
                plain.append({"input": f"user\nTask {task}?\nassistant\n", "output": "x", "score": acc, "step": step})
                plain[-1]["uid"] = f"{uid}_{sample}_0"
        trajectory_dump.write(folder / "validation" / "trajectories" / f"{step}.parquet", rows)
        text = "".join(json.dumps(row) + "\n" for row in plain)
        (folder / "validation" / f"{step}.jsonl").write_text(text)


def write_evaluation(folder: Path):
    """The report of `verl_cleaner.evaluation`, of one suite with both arms."""
    estimate = {"value": 0.5, "low": 0.4, "high": 0.6}
    arm = {"problems": 30, "samples": 4, "mean": estimate, "failures_left": 0.4, "tool_failures": 0.5}
    gain = {"value": 0.1, "low": 0.02, "high": 0.2}
    suite = {"arms": {"plain": arm, "rollback": arm | {"failures_left": 0.0}}, "comparison": {"gain": gain}}
    (folder / "plain" / "trajectories").mkdir(parents=True)
    report = {"settings": {"model": "outputs/cleaner-4b"}, "suites": {"aime2025": suite}}
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def call(code):
    return "<tool_call>\n" + json.dumps({"name": "code_interpreter", "arguments": {"code": code}}) + "\n</tool_call>"


def response(code, answer):
    """Pieces of a response: (text without special tokens, sampled)."""
    return [
        (f"I compute it.\n{call(code)}", True),
        ("\nuser\n<tool_response>\n" + str(answer) + "\n</tool_response>\nassistant\n", False),
        (f"\\boxed{{{answer}}}", True),
    ]


def retry(step, uid, rollout, *, old, new, kinds=("NameError",), error="NameError at line 1: name 'x' is not defined"):
    row = dict.fromkeys(rollback_dump.SCHEMA)
    return row | {
        "schema_version": 1, "step": step, "uid": uid, "rollout": rollout, "turn": 1, "retry": 1, "kinds": list(kinds),
        "result": "overwritten", "strategy": "tool_call_only", "similarity": 0.9, "similarity_on": "arguments",
        "threshold": 0.5, "failed_call": old, "malformed": "", "error": error, "new_call": new, "generated": 20,
        "discarded": 12, "seconds": 0.5, "span_start": 3, "span_end": 9, "gap": -1.5,
    }  # fmt: skip


def write_run(
    folder: Path, *, steps=3, prompts=4, rollouts=4, rollback=True, tokens=True, ours=True, words=0, seed=0, extra=()
):
    """extra: texts to be the first trajectories' code and tool output. words: of padding in every response."""
    rng = random.Random(seed)
    (folder / "rollouts").mkdir(parents=True)
    lines = [{"step": step, "data": metrics(step, rng, rollback=rollback)} for step in range(steps + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    model = {"model": {"path": "Qwen/Qwen3-4B"}}
    trainer = {"seed": seed, "wandb_proxy": "http://me:hunter2@proxy", "rollout_data_dir": str(folder)}
    info = {
        "config": {"trainer": trainer, "rollback": rollback, "actor_rollout_ref": model},
        "versions": {"verl": "0.9.1", "torch": "2.11.0"},
        "started": "2026-03-04T05:06:07+00:00",
        "command": f"python -m verl_cleaner.main_ppo data.seed={seed}",
        "commit": "0123456789ab",
        "hardware": "4 × NVIDIA H100 80GB HBM3, 64 CPUs, 512 GiB",
    }
    (folder / "rollouts" / "run.json").write_text(json.dumps(info))
    for step in range(1, steps + 1):
        _write_step(folder / "rollouts", step, rng, prompts, rollouts, rollback, tokens, ours, words, list(extra))
        extra = ()
    return folder


def _write_step(folder, step, rng, prompts, rollouts, rollback, tokens, ours, words, extra):
    plain, rows, retries, columns = [], [], [], {}
    for prompt in range(prompts):
        uid = f"{step:04x}{prompt:04x}-aaaa"
        for rollout in range(rollouts):
            number = 100 * step + prompt
            padding = " ".join(rng.choice(("sum", "prime", "carry", "digit", "loop")) for _ in range(words))
            hostile = extra.pop(0) if extra else ""
            code = f"# {hostile or padding}\nprint({number} + {rollout})"
            failed = rollback and rollout % 2 == 0
            pieces = response(code, hostile or number + rollout)
            key = f"{uid}_{rollout}_0"
            acc = float(rng.random() < 0.5)
            output = "".join(text for text, _ in pieces)
            question = f"user\nHow much is {number} + x?\nassistant\n"
            plain.append(
                {"input": question, "output": output, "gts": str(number), "score": acc, "step": step, "uid": key}
            )
            attempts = [{"turn": 1, "kinds": ["NameError"], "seconds": (0.1,)}] if failed else []
            attempts.append({"turn": 1, "kinds": [None], "seconds": (0.2,)})
            record = {
                "enabled": rollback,
                "eligible": rollback,
                "sampled_tokens": 50,
                "attempts": attempts,
                "retries": [{"turn": 1, "span": (3, 9), "discarded": 12}] if failed else [],
                "recovered": int(failed),
                "failed": 0,
            }
            rows.append((key, {RECORD_FIELD: record, "reward_extra_info": {"acc": acc}}))
            if failed:
                retries.append(retry(step, uid, rollout, old=code.replace("print", "prnt"), new=code))
            if tokens:
                columns[key] = _token_columns(number, pieces, rng)
    with (folder / f"{step}.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in plain)
    if ours:
        table = [trajectory_dump.of_output(key, fields, step=step, **columns.get(key, {})) for key, fields in rows]
        trajectory_dump.write(folder / "trajectories" / f"{step}.parquet", table)
        rollback_dump.write(folder / "rollbacks" / f"{step}.parquet", retries)


def _token_columns(number, pieces, rng):
    texts, mask = [], []
    for text, sampled in pieces:
        text = text.encode("utf-8", "replace").decode()
        words = [text[i : i + 4] for i in range(0, len(text), 4)]
        texts += words
        mask += [int(sampled)] * len(words)
    return {
        "prompt": f"<|im_start|>user\nHow much is {number} + x?<|im_end|>\n<|im_start|>assistant\n",
        "tokens": texts,
        "mask": mask,
        "old_log_probs": [-rng.random() if sampled else 0.0 for sampled in mask],
        "advantages": [0.7 * sampled for sampled in mask],
    }
