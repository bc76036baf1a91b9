"""What VeRL loads of CLEANER at the end of `import verl`, in every process (entry point `verl.plugins`).

Installed but not chosen, it changes nothing: it adds a name to VeRL's table of trainers, once VeRL has made that table.

    trainer.v1.trainer_mode=cleaner     VeRL's synchronous trainer with CLEANER; `verl_cleaner.enable` says what follows
    VERL_PLATFORM=cpu                   training without a GPU (`verl_cleaner.engine.cpu`)

A process imports a trainer or an engine only when it uses it.
"""

import os
from types import ModuleType
from typing import Any

from wrapt import register_post_import_hook

from verl_cleaner import TRAINER


def cleaner_trainer(config: Any) -> Any:
    """Stands in VeRL's table where a class is expected, and is called like one. Raises PreflightError."""
    from verl_cleaner.enable import enable
    from verl_cleaner.preflight import check_in_trainer
    from verl_cleaner.training.trainer import CleanerTrainer

    enable(config)
    check_in_trainer(config)
    return CleanerTrainer(config)


def _register_trainer(trainer_base: ModuleType) -> None:
    trainer_base.TRAINER_REGISTRY[TRAINER] = cleaner_trainer


register_post_import_hook(_register_trainer, "verl.trainer.ppo.v1.trainer_base")

if os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu":
    from verl_cleaner.engine.cpu import register

    register()
