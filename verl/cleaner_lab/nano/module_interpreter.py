"""`code_interpreter` with Python modules of ours beside the policy's program, which it can import.

config: `modules`, a list of import paths. A module's source travels with every program, in one line before it; its name
there is the last part of the path. All else is `CodeInterpreter`'s.
"""

import importlib.util
from pathlib import Path
from typing import Any

from code_judge.wire import RunResult, Submission
from verl_cleaner.rollout.code_interpreter import CodeInterpreter


class ModuleInterpreter(CodeInterpreter):
    """Raises ValueError where a module of `modules` has no Python source."""

    def __init__(self, config: dict[str, Any], tool_schema: Any) -> None:
        super().__init__(config, tool_schema)
        self.preamble = "; ".join(
            ["import sys, types", *map(_definition, config["modules"]), "del sys, types, _module"]
        )

    async def run(self, code: str) -> RunResult:
        submission = Submission(type="python", solution=f"{self.preamble}\n{code}", options=self.options)
        result = await self.client.run(submission)
        # The policy's first line is the program's second.
        return result if result.line is None else result.model_copy(update={"line": result.line - 1})


def _definition(path: str) -> str:
    """Statements of one line that make a module importable."""
    spec = importlib.util.find_spec(path)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise ValueError(
            f"modules: {path!r} has no Python source; expected import paths such as cleaner_lab.nano.numkit"
        )
    name = path.rpartition(".")[2]
    source = Path(spec.origin).read_text()
    file = f"{name}.py"
    return (
        f"_module = sys.modules[{name!r}] = types.ModuleType({name!r}); "
        f"exec(compile({source!r}, {file!r}, 'exec'), _module.__dict__)"
    )
