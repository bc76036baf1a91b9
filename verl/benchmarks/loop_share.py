"""What the agent loop itself costs a turn: everything but generation and tools, which answer at once here.

    python verl/benchmarks/loop_share.py [--trajectories 1024] [--tokens 20000] [--model FOLDER]

All trajectories run together in one worker, each with a context of `--tokens` tokens, and take four turns: three tool
calls and an answer. Shown per turn, which is one generation, in ms of the worker's CPU: VeRL's own loop, ours with
rollback and no failure, and ours with every call failing once and being repaired (seven generations). Then the search
for the tool call in one turn of 8,000 tokens, against decoding every prefix.
"""

import argparse
import asyncio
import contextlib
import io
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from loop_harness import TOKENIZER, call, make_config, make_loop, rollback
from verl.experimental.agent_loop.tool_agent_loop import AgentState
from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop as StockToolAgentLoop
from verl.workers.rollout.replica import TokenOutput

from verl_cleaner.rollout.tool_agent_loop import ToolAgentLoop
from verl_cleaner.rollout.tool_parser import CallReader

CODE = "total = 0\nfor number in range(100):\n    total += number * number\nprint(total)"
THINK = "First I compute the sum of the squares, then I compare. " * 8
OK_TURN, FAILED_TURN = THINK + call(f"ok {CODE}"), THINK + call(f"NameError {CODE}")
ANSWER = THINK + "The answer is 328350."


class Replies:
    """Answers request after request with the next turn, tokenised beforehand."""

    def __init__(self, turns: list[list[int]], tokenizer: Any) -> None:
        self.turns = iter(turns)
        self.tokenizer = tokenizer

    async def generate(self, request_id: str, **_: Any) -> TokenOutput:
        ids = next(self.turns)
        return TokenOutput(token_ids=list(ids), log_probs=[-1.0] * len(ids), extra_fields={"global_steps": 0})


def long(cls: type, tokens: int) -> type:
    """The loop, started with a response that is `tokens` long already."""

    class Long(cls):  # type: ignore[misc,valid-type]
        async def _handle_pending_state(self, agent_data: Any, sampling_params: dict[str, Any]) -> AgentState:
            agent_data.prompt_ids = [100] * (tokens + 100)
            agent_data.response_mask, agent_data.response_logprobs = [1] * tokens, [-1.0] * tokens
            return AgentState.GENERATING

    return Long


async def milliseconds_a_turn(cls: type, script: list[str], options: argparse.Namespace, *, on: bool) -> float:
    config = make_config(*(rollback() if on else ()), response_length=options.tokens + 4000)
    tokenizer = options.tokenizer
    turns = [[*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id] for text in script]
    servers = [Replies(turns, tokenizer) for _ in range(options.trajectories)]
    with contextlib.redirect_stdout(io.StringIO()):  # VeRL prints the tools' schemas
        loops = [make_loop(long(cls, options.tokens), server, config) for server in servers]
    prompt = [{"role": "user", "content": "How much is it?"}]
    start = time.process_time()
    runs = [
        loop.run({"temperature": 1.0}, raw_prompt=prompt, global_steps=1, index=i, session_id=0)
        for i, loop in enumerate(loops)
    ]
    outputs = await asyncio.gather(*runs)
    seconds = time.process_time() - start
    assert all(output.num_turns == 8 for output in outputs)
    return 1000 * seconds / (len(script) * len(outputs))


def search(tokenizer: Any, tokens: int) -> tuple[int, float, float]:
    """Tokens of the turn, ms of our search, ms of decoding prefix after prefix until the call is in it."""
    words = tokenizer.encode(THINK, add_special_tokens=False)
    ids = (words * (tokens // len(words) + 1))[:tokens] + tokenizer.encode(call(CODE), add_special_tokens=False)
    reader = CallReader("hermes", tokenizer, max_calls=8)
    reader.boundary(ids)  # the vocabulary's texts are read once
    start = time.process_time()
    boundary = reader.boundary(ids)
    ours = time.process_time() - start
    start = time.process_time()
    naive = next(i for i in range(len(ids)) if "<tool_call>" in tokenizer.decode(ids[: i + 1]))
    assert naive == boundary
    return len(ids), 1000 * ours, 1000 * (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trajectories", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=20000)
    parser.add_argument(
        "--model", help="a folder with a tokenizer of Qwen's family (default: a small one, a token a byte)"
    )
    parser.add_argument("--turn", type=int, default=8000, help="tokens of the turn that is searched")
    options = parser.parse_args()
    options.tokenizer = TOKENIZER
    if options.model:
        from transformers import AutoTokenizer

        options.tokenizer = AutoTokenizer.from_pretrained(options.model)
    good, repaired = [*[OK_TURN] * 3, ANSWER], [*[FAILED_TURN, OK_TURN] * 3, ANSWER]
    cases = [
        ("VeRL's loop", StockToolAgentLoop, good, False),
        ("ours, no failure", ToolAgentLoop, good, True),
        ("ours, every call repaired", ToolAgentLoop, repaired, True),
    ]
    print(f"{options.trajectories} trajectories, {options.tokens} tokens of context")
    for name, cls, script, on in cases:
        print(
            f"  {name:<28} {asyncio.run(milliseconds_a_turn(cls, script, options, on=on)):6.2f} ms a turn", flush=True
        )
    tokens, ours, naive = search(options.tokenizer, options.turn)
    print(f"search in {tokens} tokens: {ours:.2f} ms; decoding every prefix: {naive:.0f} ms")


if __name__ == "__main__":
    main()
