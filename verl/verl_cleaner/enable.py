"""What `trainer.v1.trainer_mode=cleaner` means for the rest of VeRL's configuration.

The trainer calls `enable` before anything else reads the configuration, so that VeRL's own main and the user's own YAML
are enough. A main that starts its parts itself calls it once, before it creates a trainer or an agent loop.
"""

from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

MULTI_TURN_CLASS = "verl_cleaner.config.MultiTurnConfig"
MANAGER_CLASS = "verl_cleaner.rollout.agent_loop_worker.AgentLoopManager"
ENGINE_MODULE = "verl_cleaner.engine.install"

_STOCK_MULTI_TURN = "verl.workers.config.MultiTurnConfig"


def enable(config: DictConfig) -> None:
    """Change `config`, VeRL's whole PPO configuration, in place. Idempotent; what the user chose stays.

    rollout.multi_turn._target_                our dataclass, which has SAAR's parameters; VeRL's own refuses them
    rollout.agent.agent_loop_manager_class     ours, which counts lost trajectories; only where none is named
    *.model.external_lib                       our changes to the engine, in addition to the user's modules
    """
    rollout = config.actor_rollout_ref.rollout
    with open_dict(config):
        if rollout.multi_turn.get("_target_", _STOCK_MULTI_TURN) == _STOCK_MULTI_TURN:
            rollout.multi_turn._target_ = MULTI_TURN_CLASS
        if rollout.agent.get("agent_loop_manager_class") is None:
            rollout.agent.agent_loop_manager_class = MANAGER_CLASS
        for section in ("actor_rollout_ref.model", "critic.model"):
            model = OmegaConf.select(config, section)
            if model is not None:
                model.external_lib = _with_ours(model.get("external_lib"))


def _with_ours(modules: str | ListConfig | None) -> list[str]:
    found = [modules] if isinstance(modules, str) else list(modules or ())
    return found if ENGINE_MODULE in found else [*found, ENGINE_MODULE]
