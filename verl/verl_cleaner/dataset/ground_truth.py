"""Ground truths: what an answer is compared with has to be usable before anybody is rewarded by it.

Code tests are JSON in one of two forms:

    stdin or function   {"inputs": […], "outputs": […], "fn_name": name, where a function is called}
    harness             {"entry_point": expression, "test_code": defines check(candidate), "import_prefix": code}
                        run as import_prefix + program + test_code + check(entry_point)
"""

import msgspec

from verl_cleaner.dataset.sources import Kind


class Tests(msgspec.Struct):
    """Both forms; what they hold is left as JSON, which may be megabytes."""

    inputs: list[msgspec.Raw] | None = None
    outputs: list[msgspec.Raw] | None = None
    fn_name: str | None = None
    entry_point: str | None = None
    test_code: str | None = None
    import_prefix: str | None = None


_decode = msgspec.json.Decoder(Tests).decode


def problem(kind: Kind, ground_truth: str) -> str | None:
    """Why `ground_truth` cannot be used, None where it can."""
    if not ground_truth.strip():
        return "the ground truth is empty"
    if kind == Kind.CHOICE and not (len(letter := ground_truth.strip()) == 1 and letter.isalpha()):
        return f"the ground truth must be one letter, got {ground_truth[:40]!r}"
    if kind != Kind.CODE:
        return None
    try:
        tests = _decode(ground_truth)
    except (msgspec.DecodeError, UnicodeError) as error:
        return f"the tests in the ground truth are not the expected JSON: {error}"
    return _tests_problem(tests)


def _tests_problem(tests: Tests) -> str | None:
    if tests.test_code is not None or tests.entry_point is not None:
        missing = [name for name in ("entry_point", "test_code") if not (getattr(tests, name) or "").strip()]
        if missing:
            return f"the tests lack {' and '.join(missing)}"
        return None if "def check(" in (tests.test_code or "") else "test_code must define check(candidate)"
    if tests.inputs is None or tests.outputs is None:
        return "the tests must have inputs and outputs, or entry_point and test_code"
    if len(tests.inputs) != len(tests.outputs):
        return f"the tests have {len(tests.inputs)} inputs and {len(tests.outputs)} outputs"
    return "the list of tests is empty" if not tests.inputs else None
