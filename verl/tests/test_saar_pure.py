"""The pure core: tables of small integers and properties."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_cleaner.saar.config import RollbackConfig
from verl_cleaner.saar.feedback import explain, give_up_note
from verl_cleaner.saar.gate import derive_seed, passes_gate
from verl_cleaner.saar.overwrite import Strategy, overwrite_turn
from verl_cleaner.saar.policy import RetryPolicy
from verl_cleaner.saar.segment import Turn, find_boundary
from verl_cleaner.saar.similarity import ToolCall, arguments_text, similarity

MARKER = "<tool_call>"


def turn(ids, boundary=None):
    return Turn(tuple(ids), tuple(-0.1 * i for i in ids), boundary)


@pytest.mark.parametrize(
    ("pieces", "boundary"),
    [
        (["think", MARKER, "{}"], 1),
        ([MARKER, "{}"], 0),
        (["think", "<", "tool", "_call", ">", "{"], 1),
        (["think<", "tool_", "call>{"], 0),
        (["a", "b\n<tool", "_call>"], 1),
        (["a<", "tool", "<tool_call", ">"], 2),
        (["", "", MARKER], 2),
    ],
)
def test_boundary(pieces, boundary):
    assert find_boundary(pieces, "".join(pieces).index(MARKER)) == boundary


@given(st.lists(st.text(alphabet="<tol_ca>x", max_size=6)))
def test_boundary_is_the_first_prefix_that_reaches_into_the_marker(pieces):
    text = "".join(pieces)
    if MARKER in text:
        boundary = find_boundary(pieces, text.index(MARKER))
        before, through = "".join(pieces[:boundary]), "".join(pieces[: boundary + 1])
        assert len(before) <= text.index(MARKER) < len(through)


@given(st.lists(st.integers(0, 99), min_size=1), st.data())
def test_split_is_reversible(ids, data):
    boundary = data.draw(st.integers(0, len(ids) - 1))
    whole = turn(ids, boundary)
    joined = whole.reasoning + whole.tool_call
    assert (joined.ids, joined.logprobs) == (whole.ids, whole.logprobs)
    assert len(whole.reasoning) == boundary


FAILED, RETRY = turn([1, 2, 3, 10, 11], 3), turn([4, 5, 20, 21, 22], 2)


@pytest.mark.parametrize(
    ("failed", "retry", "ratio", "threshold", "room", "ids", "strategy"),
    [
        (FAILED, RETRY, 0.5, 0.5, 99, (1, 2, 3, 20, 21, 22), Strategy.TOOL_CALL_ONLY),
        (FAILED, RETRY, 0.49, 0.5, 99, (4, 5, 20, 21, 22), Strategy.FULL_TURN),
        (FAILED, RETRY, 0.0, 0.0, 99, (1, 2, 3, 20, 21, 22), Strategy.TOOL_CALL_ONLY),
        (FAILED, RETRY, 1.0, 1.0, 99, (4, 5, 20, 21, 22), Strategy.FULL_TURN),
        (FAILED, RETRY, 1.0, 0.99, 99, (1, 2, 3, 20, 21, 22), Strategy.TOOL_CALL_ONLY),
        (turn([1, 2, 3]), RETRY, 1.0, 0.5, 99, (4, 5, 20, 21, 22), Strategy.FULL_TURN),
        (FAILED, turn([4, 5]), 1.0, 0.5, 99, (4, 5), Strategy.FULL_TURN),
        (FAILED, RETRY, 1.0, 0.5, 6, (1, 2, 3, 20, 21, 22), Strategy.TOOL_CALL_ONLY),
        (FAILED, RETRY, 1.0, 0.5, 5, (4, 5, 20, 21, 22), Strategy.FULL_TURN),
    ],
)
def test_overwrite(failed, retry, ratio, threshold, room, ids, strategy):
    repaired, used = overwrite_turn(failed, retry, ratio=ratio, threshold=threshold, room=room)
    assert repaired.ids == ids
    assert used is strategy
    assert repaired.logprobs == tuple(-0.1 * i for i in ids)


def test_overwrite_without_room():
    assert overwrite_turn(FAILED, RETRY, ratio=1.0, threshold=0.5, room=4) is None


def test_a_turn_keeps_its_lengths():
    with pytest.raises(AssertionError):
        Turn((1, 2), (0.0,))
    assert (Turn((), ()) + Turn((), ())).logprobs == ()  # an empty list is not "no log-probs"
    assert (Turn((1,), None) + Turn((2,), (0.0,))).logprobs is None


def test_similarity_sees_what_the_tool_sees():
    old = ToolCall("code_interpreter", {"code": "print(1)"}, "")
    new = ToolCall("code_interpreter", {"code": "x = [2]"}, "")
    assert similarity(arguments_text([old]), arguments_text([new])) < 0.3
    assert similarity(arguments_text([old]), arguments_text([old])) == 1.0
    # The ratio is not symmetric; the failed call comes first.
    assert (similarity("tide", "diet"), similarity("diet", "tide")) == (0.25, 0.5)
    swapped = ToolCall("f", {"b": 1, "a": "x"}, ""), ToolCall("f", {"a": "x", "b": 1}, "")
    assert arguments_text(swapped[:1]) == arguments_text(swapped[1:]) == "x\n1"


@pytest.mark.parametrize(
    ("written", "seen"),
    [
        ("{broken", "{broken"),
        ('{"name": "f", "arguments": {"code": "x = \\"1\\"\\nprint(x)"', 'x = "1"\nprint(x)'),
        ('{"name": "f", "arguments": {"code": "print(1)', "print(1)"),
        ('{"name": "f", "arguments": {"code": "two\nlines"}', "two\nlines"),
        ('{"name": "f", "arguments": {"b": "2", "a": "bad \\x escape"}', "bad \\x escape\n2"),
    ],
)
def test_a_malformed_call_is_compared_by_what_can_be_read_in_it(written, seen):
    assert arguments_text([ToolCall("f", None, written)]) == seen


@given(st.integers(), st.integers(), st.floats(0, 1), st.floats(0, 1))
def test_gate_is_seeded_and_monotonous(seed, sample, low, high):
    low, high = sorted((low, high))
    assert passes_gate(low, seed, sample) == passes_gate(low, seed, sample)
    assert not passes_gate(low, seed, sample) or passes_gate(high, seed, sample)
    assert passes_gate(1.0, seed, sample)
    assert not passes_gate(0.0, seed, sample)


def test_the_share_falls_linearly_to_nothing():
    falling = RollbackConfig(rollback_probability=0.8, rollback_anneal_steps=4)
    assert [falling.probability_at(step) for step in range(1, 8)] == pytest.approx([0.8, 0.6, 0.4, 0.2, 0, 0, 0])
    assert {RollbackConfig(rollback_probability=0.8).probability_at(step) for step in (1, 1000)} == {0.8}


def test_gate_meets_its_share():
    assert 0.67 < sum(passes_gate(0.7, 0, i) for i in range(4000)) / 4000 < 0.73
    assert len({derive_seed(0, i) for i in range(1000)}) == 1000


def policy(*, active=True, **values):
    config = RollbackConfig(enable_tool_rollback=True, **values)
    return RetryPolicy(config, active=active)


def test_a_turn_is_retried_up_to_k_times():
    p = policy(max_tool_retries=2)
    assert not p.triggers([])
    for _ in range(2):
        assert p.triggers(["NameError"])
        p.begin_retry()
    assert not p.triggers(["NameError"])
    p.close_turn(recovered=True)
    p.begin_turn()
    assert p.triggers(["NameError"])


def test_an_inactive_trajectory_and_a_failed_turn_end_it():
    assert not policy(active=False).triggers(["NameError"])
    p = policy()
    p.close_turn(recovered=False)
    p.begin_turn()
    assert not p.triggers(["NameError"])
    p.close_turn(recovered=True)
    assert not p.triggers(["NameError"])


def test_only_the_wanted_kinds():
    p = policy(rollback_on_errors=("timeout",))
    assert not p.triggers(["NameError"])
    assert p.triggers(["NameError", "timeout"])


def test_budgets_of_the_trajectory():
    p = policy(rollback_max_retries=2)
    for _ in range(2):
        p.begin_turn()
        assert p.triggers(["NameError"])
        p.begin_retry()
    p.begin_turn()
    assert not p.triggers(["NameError"])
    p = policy(rollback_max_tokens=10)
    p.end_retry(generated=9)
    assert p.triggers(["NameError"])
    assert p.budget(response_left=99, context_left=99) == 1
    p.end_retry(generated=1)
    assert not p.triggers(["NameError"])


def test_budget_of_a_retry():
    assert policy().budget(response_left=10, context_left=99) == 9
    assert policy().budget(response_left=10, context_left=4) == 3
    assert policy(rollback_max_tokens=2).budget(response_left=10, context_left=4) == 2


def test_notes():
    assert give_up_note(1) == ""
    assert "3 times" in give_up_note(2)
    assert explain("boom", "timeout").startswith("boom\nThe code ran out of time")
    assert explain("boom", "OddError").startswith("boom\nThe code stopped")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rollback_similarity_threshold", 1.4),
        ("rollback_similarity_threshold", "high"),
        ("rollback_probability", -0.1),
        ("max_tool_retries", -1),
        ("max_tool_retries", 1.5),
        ("max_tool_retries", True),
        ("enable_tool_rollback", "yes"),
        ("rollback_on_errors", "NameError"),
        ("rollback_on_errors", ()),
        ("rollback_similarity_on", "tokens"),
        ("rollback_logprobs", "guess"),
        ("rollback_mode", "undo"),
        ("rollback_feedback", "loud"),
        ("rollback_max_retries", -1),
        ("rollback_max_tokens", 0.5),
        ("rollback_anneal_steps", 0),
        ("trajectory_deadline", 0),
        ("trajectory_deadline", "1h"),
        ("rollback_min_logratio", "low"),
        ("rollback_min_logratio", -5.0),
    ],
)
def test_bad_values_are_named(key, value):
    with pytest.raises(ValueError, match=key) as error:
        RollbackConfig(**{key: value})
    assert repr(value) in str(error.value)
