"""A failed call as a leaf of its group's tree: what the policy sampled first, before it saw the error.

    context h (clean)  --a-->  error            the leaf: the replaced tokens of a, in the context h
                       --b-->  …                the trajectory goes on with the repair b

Only the first attempt of a turn is sampled from π(· | h); a retry that fails was sampled with an error in view, so it
makes no leaf. A turn that stays failed makes none either: a failed attempt is in the trajectory and gets its return.
"""

from dataclasses import dataclass

from verl_cleaner.saar.segment import Turn


@dataclass(frozen=True, slots=True)
class Leaf:
    """The context is the prompt and response[:start] of the trajectory; `ids` are the tokens that were sampled next and
    then replaced. logprobs: as sampled, one a token; None where the rollout keeps none."""

    start: int
    ids: tuple[int, ...]
    logprobs: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        assert self.start >= 0, self.start
        assert self.ids, "a leaf has tokens"
        assert self.logprobs is None or len(self.logprobs) == len(self.ids), (len(self.ids), len(self.logprobs))


def make_leaf(first: Turn, repaired: Turn, *, replaced_from: int, start: int) -> Leaf | None:
    """The leaf of a repaired turn, None where the call that ran in the end is the first one, token for token.

    first: the turn's first attempt. repaired: what stands in the trajectory. replaced_from: the first token of the turn
    that any retry replaced. start: the turn's first token in the response.
    """
    if first.ids[replaced_from:] == repaired.ids[replaced_from:]:
        return None
    logprobs = None if first.logprobs is None else first.logprobs[replaced_from:]
    return Leaf(start + replaced_from, first.ids[replaced_from:], logprobs)
