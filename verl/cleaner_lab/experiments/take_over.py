"""A trainer that uses the workers of another one, in place of VeRL's `init`."""

from pathlib import Path

from verl_cleaner.training.modes import CleanerTrainer


def take_over(trainer: CleanerTrainer, host: CleanerTrainer, *, start: Path) -> None:
    """Give `trainer` the workers of `host`, set back to a state that belongs to `trainer`.

    Args:
        trainer: made, not yet initialised. It keeps its own configuration, data and dump executor.
        host: initialised. It does not train.
        start: weights and optimizer of the beginning; a checkpoint of the run's own takes precedence.
    """
    trainer._init_tokenizer()
    trainer._init_dataloader()
    trainer._init_dump_executor()
    for name in vars(host).keys() - vars(trainer).keys():
        setattr(trainer, name, getattr(host, name))
    trainer.set_losses()
    trainer.checkpoint_manager.sleep_replicas()
    trainer.actor_rollout_wg.load_checkpoint(str(start))
    trainer._load_checkpoint()
    trainer.on_init_end()
