"""What a cold start on chains can do, before any RL: `python -m cleaner_lab.nano.rates outputs/nano/…`.

Samples held-out chains without rollback, and chains whose first calls are given and right, to see whether the policy
is at home in clean contexts. Programs are the policy's own and run in this process: for cold starts of ours only.
"""

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cleaner_lab.nano import numkit_api
from cleaner_lab.nano.chain_traces import Interpreter
from cleaner_lab.nano.chains import FAMILIES, Chain, make_chains
from cleaner_lab.nano.cold_start import MARKER, segments
from cleaner_lab.nano.numkit_api import Api
from cleaner_lab.nano.solutions import OPENINGS, solve
from cleaner_lab.nano.traces import Trace, call_text
from verl_cleaner.formats import FORMATS

MAX_NEW_TOKENS = 160
PROGRAM_SECONDS = 1.0
"""A policy writes endless loops, too."""


@dataclass(slots=True)
class Sampled:
    """A conversation in progress. results: (call, response, whether it ran) of each call that the policy made."""

    chain: Chain
    messages: list[dict[str, Any]]
    results: list[tuple[str, str, bool]] = field(default_factory=list)
    answer: str | None = None
    done: bool = False


@dataclass(slots=True)
class Policy:
    """Samples turns at temperature 1."""

    model: Any
    tokenizer: Any

    @classmethod
    def load(cls, folder: Path, device: str) -> "Policy":
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(folder).to(device).eval()
        return cls(model, AutoTokenizer.from_pretrained(folder, padding_side="left"))

    def turns(self, conversations: Sequence[Sampled]) -> list[str]:
        texts = ["".join(self._texts(sampled.messages)) for sampled in conversations]
        batch = self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False, padding_side="left")
        made = self.model.generate(
            **{key: batch[key].to(self.model.device) for key in ("input_ids", "attention_mask")},
            do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=MAX_NEW_TOKENS,
            pad_token_id=self.tokenizer.pad_token_id, eos_token_id=self.tokenizer.eos_token_id,
        )  # fmt: skip
        return self.tokenizer.batch_decode(made[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)

    def _texts(self, messages: list[dict[str, Any]]) -> list[str]:
        # An empty turn of the policy, whose text and end are left out.
        open_turn = Trace([*messages, {"role": "assistant", "content": ""}], (), False)
        return [f"{text}<|im_end|>" if own and text else text for text, own in segments(open_turn)]


def sample(policy: Policy, chains: Sequence[Chain], interpreter: Interpreter, *, turns: int) -> list[Sampled]:
    """One bare trajectory of each chain."""
    conversations = [Sampled(chain, [{"role": "user", "content": chain.question}]) for chain in chains]
    for _ in range(turns):
        open_ones = [sampled for sampled in conversations if not sampled.done]
        for sampled, text in zip(open_ones, policy.turns(open_ones) if open_ones else [], strict=True):
            _take(sampled, text, interpreter)
    return conversations


def _take(sampled: Sampled, text: str, interpreter: Interpreter) -> None:
    sampled.messages.append({"role": "assistant", "content": text})
    answered = _respond(text, interpreter)
    if answered is None:
        sampled.done = True
        sampled.answer = text.removeprefix("\\boxed{").removesuffix("}")
        return
    response, ok = answered
    sampled.results.append((text, response, ok))
    sampled.messages.append({"role": "tool", "content": response})


def _respond(text: str, interpreter: Interpreter) -> tuple[str, bool] | None:
    """What the tool answers to a turn's first call, and whether it succeeded; None where the turn has none."""
    calls = FORMATS["hermes"].calls(text)
    if not calls:
        return None
    if calls[0].problem:
        return f"Invalid tool call: {calls[0].problem}", False
    code = json.loads(calls[0].arguments).get("code")
    if not isinstance(code, str):
        return "Invalid tool call: argument 'code' is missing", False
    return interpreter.run(code)


def rates(policy: Policy, chains: Sequence[Chain], api: Api | None, *, calls: int) -> dict[str, float]:
    """By name, as shares."""
    interpreter = Interpreter(api, seconds=PROGRAM_SECONDS)
    slack = sample(policy, chains, interpreter, turns=calls + 4)
    found = {f"accuracy, {calls + 4} turns": _accuracy(slack)}
    tight = sample(policy, chains, interpreter, turns=calls + 1)
    found[f"accuracy, {calls + 1} turns"] = _accuracy(tight)
    outcomes: dict[str, list[bool]] = defaultdict(list)
    for sampled in slack:
        _count(sampled, outcomes)
    for name, whole in (("call", False), ("answer", True)):
        after = _after_right_calls(policy, chains, api, interpreter, whole=whole)
        outcomes[f"right {name} after right calls that were given"] = after
    return found | {name: sum(values) / len(values) for name, values in sorted(outcomes.items())}


def _accuracy(conversations: Sequence[Sampled]) -> float:
    return sum(sampled.answer == sampled.chain.answer for sampled in conversations) / len(conversations)


def _count(sampled: Sampled, outcomes: dict[str, list[bool]]) -> None:
    part, failed_before, clean = 0, False, True
    for _, response, ok in sampled.results:
        if part == len(sampled.chain.parts):
            outcomes["calls after the last part"].append(True)
            return
        task = sampled.chain.parts[part]
        right = ok and response == task.answer
        if failed_before:
            outcomes["calls after an error that run"].append(ok)
            outcomes["calls after an error that are right"].append(right)
            outcomes[f"calls after an error that are right, {task.family}"].append(right)
        else:
            outcomes[f"first calls that fail, {task.family}"].append(not ok)
            outcomes["first calls that fail"].append(not ok)
            outcomes["first calls that run and are wrong"].append(ok and not right)
            if clean:
                outcomes["first calls that fail, in a context without errors"].append(not ok)
        clean &= ok
        failed_before = not ok
        if ok and not right:
            return
        part += right
    if part == len(sampled.chain.parts) and sampled.done:
        kind = "without an error" if clean else "with errors"
        outcomes[f"right answers after right calls {kind}"].append(sampled.answer == sampled.chain.answer)


def _after_right_calls(
    policy: Policy, chains: Sequence[Chain], api: Api | None, interpreter: Interpreter, *, whole: bool
) -> list[bool]:
    """Whether the next turn is right: the answer after all calls (whole), or a call after some of them, in the old
    version or the new one."""
    rng = random.Random(0)
    conversations, nexts = [], []
    for chain in chains:
        given = len(chain.parts) if whole else rng.randrange(len(chain.parts))
        messages: list[dict[str, Any]] = [{"role": "user", "content": chain.question}]
        for task in chain.parts[:given]:
            code = solve(task) if api is None else numkit_api.call(task, api)
            messages.append({"role": "assistant", "content": f"{OPENINGS[task.family]}\n{call_text(code)}"})
            messages.append({"role": "tool", "content": task.answer})
        conversations.append(Sampled(chain, messages))
        nexts.append(None if whole else chain.parts[given])
    old = Interpreter(None if api is None else numkit_api.OLD, seconds=PROGRAM_SECONDS)
    found = []
    for sampled, following, text in zip(conversations, nexts, policy.turns(conversations), strict=True):
        if following is None:
            found.append(text == f"\\boxed{{{sampled.chain.answer}}}")
        else:
            found.append((following.answer, True) in [_respond(text, which) for which in (interpreter, old)])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of a cold start")
    parser.add_argument("--chains", type=int, default=256, help="how many to sample (default: %(default)s)")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    import torch

    torch.manual_seed(0)
    settings = json.loads((options.folder / MARKER).read_text())["settings"]
    if not settings["calls"]:
        parser.error(f"{options.folder} is a cold start on single tasks, expected one with calls of at least 1")
    drift = settings["habit"] > 0
    families = numkit_api.TRAINED if drift else tuple(FAMILIES)
    chains = make_chains("val", options.chains, seed=settings["seed"], calls=settings["calls"], families=families)
    policy = Policy.load(options.folder / "model", options.device)
    with torch.inference_mode():
        found = rates(policy, chains, numkit_api.NEW if drift else None, calls=settings["calls"])
    for name, value in found.items():
        print(f"{100 * value:6.1f} %  {name}")


if __name__ == "__main__":
    main()
