"""A tool of the user's own, like that of VeRL's GSM8K example. It knows nothing of CLEANER."""

from typing import Any

from verl.tools.base_tool import BaseTool
from verl.tools.schemas import ToolResponse


class AnswerCheck(BaseTool):
    async def execute(
        self, instance_id: str, parameters: dict[str, Any], **kwargs: Any
    ) -> tuple[ToolResponse, float, dict]:
        answer = float(parameters["answer"])
        return ToolResponse(text=f"checked {answer:g}"), 0.0, {}
