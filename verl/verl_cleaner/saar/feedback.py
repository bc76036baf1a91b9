"""What a failed call's response says in addition to the tool's own error."""

from enum import StrEnum

from verl_cleaner.saar.outcome import FailureKind

_HINTS = {
    "SyntaxError": "Python could not parse the code, so no line of it ran.",
    "IndentationError": "Python could not parse the code, so no line of it ran; check the indentation.",
    "NameError": "A name is used that was never defined; every call starts from an empty namespace.",
    "ModuleNotFoundError": "That module is not installed; use the standard library or another one.",
    FailureKind.TIMEOUT: "The code ran out of time; look for an endless loop or a faster method.",
    FailureKind.MEMORY: "The code ran out of memory; keep less of it at a time.",
    FailureKind.OUTPUT_LIMIT: "The code printed too much; print the result only.",
    FailureKind.MALFORMED_CALL: "The call could not be read, so nothing ran; write it exactly in the documented form.",
    FailureKind.UNKNOWN_TOOL: "Only the tools that were described can be called.",
}
_OTHER = "The code stopped with this error; what it printed before is shown above it."


class Feedback(StrEnum):
    RAW = "raw"
    """The tool's own response."""
    EXPLAINED = "explained"
    """The tool's own response, what its kind means, and the request to correct the call."""


def explain(text: str, kind: str) -> str:
    """The response to a failed call that the retry sees under `Feedback.EXPLAINED`."""
    return f"{text}\n{_HINTS.get(kind, _OTHER)} Correct the call and make it again."


def give_up_note(retries: int) -> str:
    """What the error says in addition once the retries are used up; empty below two."""
    if retries < 2:
        return ""
    return f"\nThis approach has failed {retries + 1} times; try a different one."
