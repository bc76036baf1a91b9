"""The tests' short cut makes what Hydra makes."""

import pytest
from composing import composed, overridden
from hydra.errors import ConfigCompositionException

OVERRIDES = (
    "data.max_prompt_length=77",
    "trainer.logger=[console,file]",
    "+trainer.new={a: 1}",
    "++data.seed=3",
    "~data.shuffle",
    "actor_rollout_ref.model.path='a b'",
)


def test_overridden_is_composed():
    assert overridden(composed("cleaner_cpu"), ["hydra.run.dir=x", *OVERRIDES]) == composed("cleaner_cpu", *OVERRIDES)
    assert composed("cleaner_cpu").data.max_prompt_length != 77


@pytest.mark.parametrize("override", ["data.sede=3", "+data.max_prompt_length=3", "~data.sede", "group@data=x"])
def test_what_hydra_refuses_is_refused(override):
    for make in (lambda: composed("cleaner_cpu", override), lambda: overridden(composed("cleaner_cpu"), [override])):
        with pytest.raises(ConfigCompositionException):
            make()
