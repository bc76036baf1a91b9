"""Checks of the trained model's attention: what an implementation needs, and whether it knows sequence parallelism.

VeRL cuts packed rows into slices for sequence parallelism and exchanges them inside flash-attn only. Any other
attention would see no more than its own slice, without an error, and train something else.
"""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from omegaconf import DictConfig, OmegaConf

from verl_cleaner.engine.attention import NAME as VARLEN
from verl_cleaner.preflight.finding import Finding, error, warning
from verl_cleaner.preflight.names import FSDP_SECTIONS, trains_critic

_MODEL = "actor_rollout_ref.model"
_NAME = "override_config.attn_implementation"
_KEY = f"{_MODEL}.{_NAME}"
_STOCK = "flash_attention_2"
_WITHOUT_SEQUENCE_PARALLELISM = (VARLEN, "sdpa", "eager", "flex_attention")
"""transformers' own and ours; a name that is not known may be the user's, who knows."""


def attention(config: DictConfig) -> Iterator[Finding]:
    if not str(config.actor_rollout_ref.actor.strategy).startswith("fsdp"):
        return
    name = OmegaConf.select(config, _KEY) or _STOCK
    if name in _WITHOUT_SEQUENCE_PARALLELISM:
        # VeRL reads the second key; the first is its older name.
        for path in ("ulysses_sequence_parallel_size", "fsdp_config.ulysses_sequence_parallel_size"):
            for section in FSDP_SECTIONS:
                got = OmegaConf.select(config, f"{section}.{path}")
                if got is not None and got != 1:
                    yield error(
                        f"{_KEY}={name} needs {section}.{path}=1, got {got}: each process would attend to its own "
                        f"slice of a row only; install flash-attn and take {_STOCK}, or drop the sequence parallelism"
                    )
    for model, name in _named(config):
        if name == VARLEN:
            packed = OmegaConf.select(config, f"{model}.use_remove_padding")
            if not packed:
                yield error(f"{model}.{_NAME}={name} needs {model}.use_remove_padding=True, got {packed}")
            if config.trainer.device == "cpu":
                yield error(f"{model}.{_NAME}={name} needs a GPU, but trainer.device=cpu; take sdpa")


def flash_attention(config: DictConfig) -> Iterator[Finding]:
    """VeRL's default needs a package that VeRL does not ask for."""
    fsdp = str(config.actor_rollout_ref.actor.strategy).startswith("fsdp")
    if not fsdp or config.trainer.device != "cuda" or _flash_attn():
        return
    for model, name in _named(config):
        if name == _STOCK:
            yield warning(
                f"{model}.{_NAME}={name}, VeRL's default, but flash-attn is not installed: the run ends when it loads "
                f"the model, unless transformers finds the kernel elsewhere; without flash-attn write +{model}.{_NAME}="
                f"{VARLEN} and {model}.use_remove_padding=True"
            )


def _named(config: DictConfig) -> Iterator[tuple[str, str]]:
    """(section of a trained model, its attention)."""
    for model in (_MODEL, "critic.model") if trains_critic(config) else (_MODEL,):
        yield model, OmegaConf.select(config, f"{model}.{_NAME}") or _STOCK


def _flash_attn() -> bool:
    """The engines bring a package flash_attn of other contents; the distribution tells them apart."""
    try:
        version("flash-attn")
    except PackageNotFoundError:
        return False
    return True
