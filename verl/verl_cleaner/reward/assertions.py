"""Count the assertions of a `check(candidate)` that hold, beside its verdict as a whole.

Each statement of `check` that asserts something is put into a try; the next ones run also where it fails, and the first
failure is raised at the end. So the verdict is that of the check as it was.

    assert candidate(1) == 2        try:
                                        assert candidate(1) == 2
                                    except BaseException as error:
                                        __cleaner_failed(error)
                                    else:
                                        __cleaner_held()
"""

import ast

_MOST = 500
"""Statements that are counted: the judge returns the first 1,000 characters of the output."""
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def with_marks(test: str) -> tuple[str, int]:
    """The test with counted assertions, and how many these are; as it was, and 0, where none can be counted.

    Raises:
        SyntaxError: the test is not Python.
    """
    try:
        tree = ast.parse(test)
    except ValueError as error:
        raise SyntaxError(str(error)) from None
    check = next((node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "check"), None)
    if check is None:
        return test, 0
    counted = [node for node in check.body if _asserts(node)][:_MOST]
    check.body = [_guarded(node) if node in counted else node for node in check.body]
    try:
        return (ast.unparse(ast.fix_missing_locations(tree)), len(counted)) if counted else (test, 0)
    except RecursionError:
        return test, 0


def _asserts(statement: ast.stmt) -> bool:
    if isinstance(statement, _DEFINITIONS):
        return False
    return any(isinstance(node, ast.Assert) for node in ast.walk(statement))


def _guarded(statement: ast.stmt) -> ast.Try:
    guard = ast.parse(
        "try:\n    pass\nexcept BaseException as error:\n    __cleaner_failed(error)\nelse:\n    __cleaner_held()"
    )
    guarded = guard.body[0]
    assert isinstance(guarded, ast.Try)
    guarded.body = [statement]
    return guarded
