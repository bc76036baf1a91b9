"""The score of a leaf: that of a wrong answer, given by the user or declared by the reward function.

A reward function declares it by a function beside it, in the same module:

    def wrong_answer_score(data_source: str, **reward_kwargs) -> float: ...
"""

from collections.abc import Callable

from omegaconf import DictConfig, OmegaConf
from verl.utils.import_utils import load_module

DECLARATION = "wrong_answer_score"


def failed_call_score(config: DictConfig) -> Callable[[str], float]:
    """data_source -> score of a leaf.

    Raises:
        ValueError: no score is given, and the reward function declares none.
    """
    given = config.actor_rollout_ref.rollout.multi_turn.get("rollback_failed_call_score")
    if given is not None:
        return lambda _: float(given)
    function = config.reward.custom_reward_function
    declared = getattr(load_module(function.path), DECLARATION, None) if function.path else None
    if declared is None:
        raise ValueError(
            "rollback_failed_calls=leaf needs the score of a wrong answer, but the reward function "
            f"{function.path or 'that VeRL chooses by data_source'} declares none; set rollback_failed_call_score (0 "
            f"or -1, say), or define {DECLARATION}(data_source, **reward_kwargs) in its module"
        )
    kwargs = OmegaConf.to_container(function.get("reward_kwargs") or OmegaConf.create({}), resolve=True)
    assert isinstance(kwargs, dict)
    return lambda data_source: float(declared(data_source, **{str(key): value for key, value in kwargs.items()}))
