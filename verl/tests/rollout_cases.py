"""Scripted rollouts, and what came of them as plain data.

`data/rollouts.json` was written by the agent loop as it was before a turn became one object; test_rollout_cases.py runs
today's loop and compares. Changed on purpose since then: broken calls are worded otherwise, and calls beyond
`max_parallel_calls` are left out. After another change on purpose, write the file again and review its diff:

    python verl/tests/rollout_cases.py verl/tests/data/rollouts.json
"""

import asyncio
import hashlib
import itertools
import json
import random
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loop_harness import TOKENIZER, ScriptedServer, call, configured, make_config, rollback, run_loop
from verl.workers.rollout.replica import TokenOutput

from verl_cleaner.rollout.tool_agent_loop import RECORD_FIELD, ToolAgentLoop
from verl_cleaner.saar.metrics import rollback_metrics

FILE = Path(__file__).parent / "data" / "rollouts.json"

FAIL, FIXED, OTHER = call("NameError x is not defined"), call("ok NameError x is 1"), call("ok 42")
ANSWER = "The answer is 42."
NEVER = [f"Try {i}. {call(f'NameError attempt {i}')}" for i in range(4)]
OPEN = '<tool_call>\n{"name": "code_interpreter", "arguments": {"code": "1"}}'
BROKEN = "<tool_call>\n{]\n</tool_call>"
MIXED = [
    f"A. {FAIL}",
    f"B. {FIXED}",
    f"C. {FAIL}",
    f"D. {OTHER}",
    f"E. {OTHER}\n{FAIL}",
    f"E. {OTHER}\n{FIXED}",
    ANSWER,
]


def qwen3_coder(code: str) -> str:
    parameter = f"<parameter=code>\n{code}\n</parameter>"
    return f"<tool_call>\n<function=code_interpreter>\n{parameter}\n</function>\n</tool_call>"


def seed(code: str) -> str:
    function = f"<function=code_interpreter><parameter=code>{code}</parameter></function>"
    return f"<seed:tool_call>{function}</seed:tool_call>"


def llama3(code: str) -> str:
    return f'{{"name": "code_interpreter", "parameters": {{"code": "{code}"}}}}'


@dataclass
class ScoringServer(ScriptedServer):
    """Also scores given tokens, by their place in the context."""

    async def generate(self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any], **rest: Any):
        if "prompt_logprobs" not in sampling_params:
            return await super().generate(request_id, prompt_ids=prompt_ids, sampling_params=sampling_params, **rest)
        scores = [[-0.25 * (1 + (i * 7 + token) % 11)] for i, token in enumerate(prompt_ids[1:])]
        return TokenOutput(token_ids=[0], log_probs=None, extra_fields={"prompt_logprobs": [*scores, [0.0]]})


@dataclass(frozen=True)
class Case:
    """values: SAAR's. overrides: Hydra's. run: what VeRL hands to the loop beside the prompt."""

    script: list[str]
    values: dict[str, Any] | None = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    response_length: int = 1000
    run: dict[str, Any] = field(default_factory=dict)
    logprobs: bool = True

    def config(self) -> Any:
        on = [] if self.values is None else rollback(**self.values)
        return make_config(*on, *self.overrides, response_length=self.response_length)


ROLLOUT = "actor_rollout_ref.rollout"
TURNS = f"{ROLLOUT}.multi_turn"
EXACT = (f"{ROLLOUT}.calculate_log_probs=True", f"{ROLLOUT}.temperature=1", f"{ROLLOUT}.top_p=1")
CASES = {
    "off: repairs nothing": Case(MIXED, None),
    "off: broken calls": Case([f"A. {OTHER}\n{BROKEN}", OPEN], None),
    "off: no room for the response": Case([OTHER, ANSWER], None, response_length=len(OTHER) + 10),
    "similar and different": Case(MIXED),
    "without log-probs": Case(MIXED, logprobs=False),
    "whole turns only": Case(MIXED, {"rollback_similarity_threshold": 1}),
    "calls only": Case(MIXED, {"rollback_similarity_threshold": 0}),
    "similarity of the wrapper": Case(MIXED, {"rollback_similarity_on": "call"}),
    "keep": Case([NEVER[0], f"B. {FAIL}", f"C. {FIXED}", ANSWER], {"rollback_mode": "keep"}),
    "void": Case([NEVER[0], f"B. {FAIL}", f"C. {FIXED}", ANSWER], {"rollback_mode": "void"}),
    "keep, given up": Case([*NEVER, FAIL, ANSWER], {"rollback_mode": "keep"}),
    "void, given up": Case([*NEVER, FAIL, ANSWER], {"rollback_mode": "void"}),
    "void without log-probs": Case([NEVER[0], f"C. {FIXED}", ANSWER], {"rollback_mode": "void"}, logprobs=False),
    "keep, within the turns": Case(
        [*NEVER[:2], FIXED, ANSWER], {"rollback_mode": "keep"}, (f"{TURNS}.max_assistant_turns=2",)
    ),
    "explained": Case([*NEVER[:3], ANSWER], {"rollback_feedback": "explained", "max_tool_retries": 2}),
    "explained, two calls": Case(
        [f"A. {OTHER}\n{FAIL}", f"A. {OTHER}\n{FAIL}", f"A. {OTHER}\n{FIXED}", ANSWER],
        {"rollback_feedback": "explained"},
    ),
    "given up": Case([*NEVER, f"Now. {FAIL}", ANSWER]),
    "given up after one": Case([*NEVER[:2], ANSWER], {"max_tool_retries": 1}),
    "no retries": Case([NEVER[0], ANSWER], {"max_tool_retries": 0}),
    "no call": Case([NEVER[0], "I cannot.", ANSWER]),
    "no call, empty": Case([NEVER[0], "", ANSWER]),
    "no call, second retry": Case([*NEVER[:2], "I cannot.", ANSWER]),
    "no call, keep": Case([*NEVER[:2], "I cannot.", ANSWER], {"rollback_mode": "keep"}),
    "retries of the trajectory": Case([f"A. {FAIL}", f"A. {FIXED}", f"B. {FAIL}", ANSWER], {"rollback_max_retries": 1}),
    "tokens of the trajectory": Case([*NEVER[:3], FIXED, ANSWER], {"rollback_max_tokens": 200}),
    "only timeouts": Case(
        [FAIL, call("timeout slow"), call("ok timeout fast"), ANSWER], {"rollback_on_errors": "[timeout]"}
    ),
    "broken, open": Case([f"A. {OPEN}", f"B. {OTHER}", ANSWER]),
    "broken, json": Case([f"A. {BROKEN}", f"B. {BROKEN}", f"C. {OTHER}", ANSWER]),
    "broken beside good": Case([f"A. {call('ok 1')}\n{BROKEN}", f"B. {call('ok 1')}\n{OTHER}", ANSWER]),
    "broken, not to be repaired": Case([f"{FAIL}\n{BROKEN}", FIXED, BROKEN], {"rollback_on_errors": "[NameError]"}),
    "unknown tool": Case([call("ok", name="python"), OTHER, ANSWER]),
    "wrong arguments": Case([call("raise no").replace('code"', 'text"'), OTHER, ANSWER]),
    "a tool that raises": Case([call("raise no luck"), call("say fine"), ANSWER]),
    "too many calls": Case(
        [f"A. {OTHER}\n{OTHER}\n{OTHER}", f"B. {OTHER}\n{OTHER}", ANSWER], {}, (f"{TURNS}.max_parallel_calls=2",)
    ),
    "side context beyond the response": Case(
        [f"A. {FAIL}", f"A. {call('ok')}", ANSWER], response_length=len(f"A. {FAIL}") + 4
    ),
    "no room": Case([f"A. {FAIL}", ANSWER], {}, (f"{ROLLOUT}.max_model_len=80",), response_length=len(FAIL) - 6),
    "no room for the mix": Case(
        [f"{'A long way of thinking. ' * 4}{call('NameError x')}", f"A. {FIXED}", ANSWER], response_length=170
    ),
    "cut off": Case([f"A. {FAIL}", f"A. {call('ok ' + 'x' * 500)}"], response_length=300),
    "cut off with room left": Case(
        [f"A. {FAIL}", f"A. {call('ok ' + 'x' * 200)}", ANSWER], {}, (f"{ROLLOUT}.max_model_len=300",)
    ),
    "end of the context": Case([f"A. {FAIL}", f"A. {call('ok ' + 'x' * 60)}"], {}, (f"{ROLLOUT}.max_model_len=200",)),
    "turn limit": Case([*NEVER[:2], FIXED, OTHER, ANSWER], {}, (f"{TURNS}.max_assistant_turns=3",)),
    "span over two retries": Case(
        [f"First. {OTHER}", f"A. {FAIL}", f"B. {call('ValueError 4242424242')}", f"C. {call('ok 4242424242')}", ANSWER]
    ),
    "gate": Case(MIXED, {"rollback_probability": 0}),
    "half a gate": Case(MIXED, {"rollback_probability": 0.5}, run={"session_id": 2}),
    "validation": Case(MIXED, {"rollback_probability": 0}, run={"is_validation": True}),
    "bare validation": Case(MIXED, {"rollback_at_validation": False}, run={"is_validation": True}),
    "annealed": Case(MIXED, {"rollback_anneal_steps": 2}, run={"global_steps": 3}),
    "pairs": Case(MIXED, {"save_negative_samples": True}),
    "pairs of the last failure": Case(
        [f"A. {FAIL}", f"B. {call('TypeError x is not set')}", f"C. {FIXED}", ANSWER], {"save_negative_samples": True}
    ),
    "no pair where nothing is repaired": Case([*NEVER, ANSWER], {"save_negative_samples": True}),
    "rescored": Case(MIXED, {"rollback_logprobs": "rescore"}, EXACT),
    "rescored, all plausible": Case(MIXED, {"rollback_logprobs": "rescore", "rollback_min_logratio": 10000}, EXACT),
    "rescored, all implausible": Case(MIXED, {"rollback_logprobs": "rescore", "rollback_min_logratio": 1e9}, EXACT),
    "qwen3_coder": Case(
        [
            f"A. {qwen3_coder('NameError x is not')}",
            f"B. {qwen3_coder('ok NameError x is')}",
            f"C. {qwen3_coder('ok 1')}\n<tool_call>",
            qwen3_coder("ok 2"),
            ANSWER,
        ],
        {},
        (f"{TURNS}.format=qwen3_coder",),
    ),
    "llama3-json": Case(
        [
            f"A. {llama3('NameError x is not')}",
            f"B. {llama3('ok NameError x is')}",
            f"C. {llama3('NameError x')[:-9]}",
            f"D. {llama3('ok 2')}",
            ANSWER,
        ],
        {},
        (f"{TURNS}.format=llama3-json",),
    ),
    "a format without a line": Case(
        [
            f"A. {seed('NameError x')}",
            f"B. {seed('ok 1')}",
            ANSWER,
        ],
        {},
        (f"{TURNS}.format=seed",),
    ),
}

PIECES = [
    *(f"Good. {OTHER}", f"Bad. {FAIL}", f"Bad. {FAIL}", f"Near. {FIXED}", f"Slow. {call('timeout')}", OPEN, BROKEN),
    *(f"Two. {OTHER}\n{FAIL}", f"Half. {OTHER}\n{BROKEN}", call("ok", name="python")),
    *(f"Long. {call('ok ' + 'y' * 150)}", f"Raises. {call('raise no')}", ANSWER),
]
CHOICES: dict[str, list[Any]] = {
    "response_length": [60, 150, 400, 1000, 1000],
    "max_model_len": [300, 1200, 1200],
    "max_assistant_turns": [2, 4, None],
    "max_parallel_calls": [1, 2, 8, 8],
    "max_tool_retries": [0, 1, 2, 3],
    "rollback_similarity_threshold": [0, 0.5, 1],
    "rollback_similarity_on": ["arguments", "call"],
    "rollback_probability": [0, 1, 1, 1],
    "rollback_on_errors": [None, None, ["NameError"], ["malformed_call", "timeout"]],
    "rollback_mode": ["overwrite", "overwrite", "keep", "void"],
    "rollback_feedback": ["raw", "explained"],
    "rollback_max_retries": [None, None, 2],
    "rollback_max_tokens": [None, None, 90],
}
RANDOM_ROLLOUTS = 300


async def run_case(case: Case) -> dict[str, Any]:
    server = ScoringServer(case.script, logprobs=case.logprobs)
    return plain(server, *await run_loop(ToolAgentLoop, server, case.config(), **case.run))


async def run_random(number: int) -> dict[str, Any]:
    draw = random.Random(number)
    limits = {name: draw.choice(values) for name, values in CHOICES.items()}
    script = draw.choices(PIECES, k=draw.randint(1, 8))
    top = {name: limits.pop(name) for name in ("response_length", "max_model_len")}
    server = ScoringServer(script)
    config = configured(ROLLOUT, **top, multi_turn=limits)
    return plain(server, *await run_loop(ToolAgentLoop, server, config, session_id=number))


def plain(server: ScriptedServer, output: Any, messages: list[dict[str, Any]]) -> dict[str, Any]:
    """All that a trajectory leaves behind but times. Masks and log-probs as runs, contexts by length and digest."""
    record = output.extra_fields.pop(RECORD_FIELD)
    metrics = rollback_metrics([record])
    for row in (*record["attempts"], *record["retries"]):
        del row["seconds"]
    for row in record["attempts"]:
        del row["span"]
    fields = output.as_dict()
    found = {
        "prompt": digest(output.prompt_ids),
        "response": output.response_ids,
        "mask": runs(output.response_mask, step=0),
        "logprobs": output.response_logprobs and runs(output.response_logprobs, step=-1),
        "overwritten": runs(fields["overwritten_mask"].tolist(), step=0) if "overwritten_mask" in fields else None,
        "pairs": fields["negative_pairs"].tolist() if "negative_pairs" in fields else None,
        "turns": output.num_turns,
        "requests": [
            [len(ids), digest(ids), params.get("max_tokens"), params.get("seed")]
            for ids, params in zip(server.contexts, server.params, strict=True)
        ],
        "messages": digest(messages),
        "extra_fields": {name: output.extra_fields[name] for name in sorted(output.extra_fields)},
        "record": record,
        "metrics": {k: round(v, 6) for k, v in metrics.items() if "latency" not in k},
    }
    return json.loads(json.dumps(found))


def runs(values: list[float], *, step: float) -> list[list[float]]:
    """[first value, length] of each part in which a value is its predecessor + step."""
    groups = itertools.groupby(enumerate(values), key=lambda item: item[1] - step * item[0] if item[1] else "zero")
    return [[first[0][1], len(first)] for _, group in groups if (first := list(group))]


def digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, default=str).encode(), digest_size=6).hexdigest()


async def all_cases() -> dict[str, Any]:
    return {
        "tokenizer": digest(sorted(TOKENIZER.get_vocab())),
        "cases": {name: await run_case(case) for name, case in CASES.items()},
        "random": [digest(await run_random(number)) for number in range(RANDOM_ROLLOUTS)],
    }


def write(path: Path) -> None:
    found = asyncio.run(all_cases())
    lines = (f"{json.dumps(name)}: {json.dumps(case, separators=(',', ':'))}" for name, case in found["cases"].items())
    head = f'{{"tokenizer": {json.dumps(found["tokenizer"])},\n"random": {json.dumps(found["random"])},\n'
    path.write_text(head + '"cases": {\n' + ",\n".join(lines) + "\n}}\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
