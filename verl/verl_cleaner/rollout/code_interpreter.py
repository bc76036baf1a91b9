"""`code_interpreter`: runs the policy's Python in the judge and says as data how it ended."""

from typing import Any

from verl.tools.base_tool import BaseTool
from verl.tools.schemas import ToolResponse

from code_judge.client import JudgeClient, JudgeOutage, judge_url
from code_judge.wire import Options, RunResult, Submission
from verl_cleaner.rollout.interpreter_text import code_argument, response_text
from verl_cleaner.rollout.tools import tool_contract
from verl_cleaner.saar.outcome import FailureKind, InfrastructureError, ToolOutcome


@tool_contract(on_exception={"Exception": "stop", "InfrastructureError": "outage"})
class CodeInterpreter(BaseTool):
    """One stateless execution a call.

    config: `url` (else as `code_judge.client.judge_url`), `deadline` (s, for one call with all its retries),
    `echo_last_expression`.
    The third value that `execute` returns is {"outcome": ToolOutcome}. What it raises is never the model's fault: an
    outage of the judge, or a bug of ours, which stops the run.
    """

    def __init__(self, config: dict[str, Any], tool_schema: Any) -> None:
        super().__init__(config, tool_schema)
        self.client = JudgeClient(judge_url(config.get("url")), deadline=float(config.get("deadline", 120)))
        echo = bool(config.get("echo_last_expression", True))
        self.options = Options(echo_last_expression=echo, cut_middle=True)

    async def execute(self, instance_id: str, parameters: Any, **_: Any) -> tuple[ToolResponse, float, dict[str, Any]]:
        try:
            text, outcome = await self._run(parameters)
        except JudgeOutage as error:
            raise InfrastructureError(str(error)) from error
        return ToolResponse(text=text), 0.0, {"outcome": outcome}

    async def _run(self, parameters: Any) -> tuple[str, ToolOutcome]:
        code, problem = code_argument(parameters)
        if code is None:
            return f"Invalid tool call: {problem}", ToolOutcome.fault(FailureKind.MALFORMED_CALL)
        result = await self.run(code)
        return response_text(result), ToolOutcome(None if result.kind == "ok" else result.kind)

    async def run(self, code: str) -> RunResult:
        """Run a program whose text is valid; for tools that add to it.

        Raises:
            JudgeOutage: the judge gave no result within the deadline.
        """
        return await self.client.run(Submission(type="python", solution=code, options=self.options))
