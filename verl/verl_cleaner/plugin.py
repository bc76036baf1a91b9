"""What VeRL loads of CLEANER at the end of `import verl`, in every process (entry point `verl.plugins`).

Installed but not chosen, it changes nothing: it adds names to VeRL's table of trainers, once VeRL has made that table.
For runs that choose one of them, the driver hands some variables on to Ray (`verl_cleaner.driver`).

    trainer.v1.trainer_mode=cleaner     VeRL's synchronous trainer with CLEANER; `verl_cleaner.enable` says what follows
    …=cleaner_colocate_async,           the same over VeRL's asynchronous trainers
      cleaner_separate_async
    VERL_PLATFORM=cpu                   training without a GPU (`verl_cleaner.engine.cpu`)

A process imports a trainer or an engine only when it uses it.
"""

from types import ModuleType
from typing import Any

from wrapt import register_post_import_hook

from verl_cleaner import TRAINERS, platform_is_cpu


def cleaner_trainer(config: Any) -> Any:
    """Stands in VeRL's table where a class is expected, and is called like one. Raises PreflightError."""
    from verl_cleaner.enable import enable
    from verl_cleaner.preflight import check_in_trainer
    from verl_cleaner.training.modes import trainer_class

    enable(config)
    check_in_trainer(config)
    return trainer_class(config.trainer.v1.trainer_mode)(config)


def _register_trainer(trainer_base: ModuleType) -> None:
    for name in TRAINERS:
        trainer_base.TRAINER_REGISTRY[name] = cleaner_trainer


def _extend_driver(constants: ModuleType) -> None:
    from verl_cleaner.driver import extend_runtime_env

    extend_runtime_env(constants)


register_post_import_hook(_register_trainer, "verl.trainer.ppo.v1.trainer_base")
register_post_import_hook(_extend_driver, "verl.trainer.constants_ppo")

if platform_is_cpu():
    from verl_cleaner.engine.cpu import register

    register()
