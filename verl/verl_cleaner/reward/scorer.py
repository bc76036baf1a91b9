"""reasoning-gym's scorers in a process of their own: several of them evaluate the answer as Python or with SymPy.

There `eval` is replaced by one that takes arithmetic and literals only (`checked`), so that no answer calls, reads or
imports anything; what takes too long is killed (see `reward.child`). As a script the module is that process.
"""

import ast
import builtins
from collections.abc import Callable, Mapping
from types import CodeType
from typing import Any

from verl_cleaner.reward.child import Child, serve

SECONDS = 5.0
"""For one answer; what takes longer is not right."""

_FUNCTIONS = frozenset({
    "Symbol", "Integer", "Float", "Rational", "sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan",
    "sinh", "cosh", "tanh", "exp", "log", "ln", "sqrt", "Abs",
})  # fmt: skip
"""What an expression may call: what SymPy's parser puts there, and elementary functions."""
_CONSTANTS = frozenset(["pi", "E", "I"])
_NODES = (
    ast.Expression, ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.Name, ast.Load, ast.Call,
    ast.BinOp, ast.operator, ast.UnaryOp, ast.unaryop, ast.Compare, ast.cmpop,
)  # fmt: skip


def scorer(seconds: float = SECONDS) -> Child:
    """Answers [family, answer, entry] with the score."""
    return Child("verl_cleaner.reward.scorer", "reasoning-gym", seconds)


def checked(source: object, names: frozenset[str] = frozenset()) -> str:
    """The source, if it is an expression of literals, operators and calls of elementary functions.

    names: of variables that it may use.

    Raises:
        ValueError: anything else, be it attributes, indices, or other names.
        SyntaxError: it is no expression.
    """
    if not isinstance(source, str):
        raise ValueError(f"expected the text of an expression, got {type(source).__name__}")
    tree = ast.parse(source.strip(), mode="eval")
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        allowed = isinstance(node, _NODES)
        if isinstance(node, ast.Call):
            allowed = isinstance(node.func, ast.Name) and not node.keywords
        elif isinstance(node, ast.Name):
            allowed = node.id in (_FUNCTIONS if id(node) in called else _CONSTANTS | names)
        if not allowed:
            raise ValueError(f"{ast.unparse(node)[:80]!r} is not part of an answer")
    return source.strip()


def _prepare() -> Callable[[str, str, dict[str, Any]], float]:
    import reasoning_gym
    import sympy

    sympy.parse_expr("1 + x")
    evaluate = builtins.eval
    families: dict[str, Any] = {}

    def guarded(
        source: str | CodeType, names: dict[str, Any] | None = None, local: Mapping[str, object] | None = None
    ) -> Any:
        text = checked(source, frozenset(local or ()))
        return evaluate(text, {} if names is None else names, local)

    def score(family: str, answer: str, entry: dict[str, Any]) -> float:
        if family not in families:
            families[family] = reasoning_gym.get_score_answer_fn(family)
        builtins.eval = guarded  # type: ignore[assignment]
        try:
            return float(families[family](answer, entry))
        except Exception:
            # A scorer that cannot read the answer: it is not right.
            return 0.0
        finally:
            builtins.eval = evaluate

    return score


if __name__ == "__main__":
    serve(_prepare)
