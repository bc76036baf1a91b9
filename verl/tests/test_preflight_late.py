"""What VeRL finds out in its trainer or in its workers is refused before the start: the same configuration is given to
VeRL's own code, which fails, and to the checks, which say so first."""

from types import SimpleNamespace

import pytest
import torch
from composing import changed, composed
from omegaconf import OmegaConf
from tensordict import TensorDict
from tiny import tiny_dataset, tiny_model
from verl.utils import tensordict_utils as tu

from verl_cleaner.preflight import attention, batches, late
from verl_cleaner.preflight.finding import Level

A, R = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
MODE = "trainer.v1.trainer_mode"
SEPARATE = [
    f"{MODE}=cleaner_separate_async",
    "trainer.v1.separate_async.parameter_sync_step=2",
    *("data.train_batch_size=4", f"{A}.ppo_mini_batch_size=2", f"{A}.ppo_micro_batch_size_per_gpu=2"),
    *(f"{R}.nnodes=1", f"{R}.n_gpus_per_node=1", f"{R}.checkpoint_engine.backend=cpu"),
    "ray_kwargs.ray_init.num_gpus=2",
]
CHECKS = (
    *(batches.processes, batches.batch_sizes, batches.log_prob_rows),
    *(late.separate_async, late.sampler, late.rollout_correction, late.verl_names),
    *(late.gpus, late.checkpoint_engine, late.resume, late.classes, attention.attention),
)


@pytest.fixture(scope="module")
def basic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    tiny_model(folder / "model")
    tiny_dataset(folder / "data.parquet")
    return composed(
        "cleaner_cpu",
        f"actor_rollout_ref.model.path={folder / 'model'}",
        *(f"data.{name}={folder / 'data.parquet'}" for name in ("train_files", "val_files")),
        *("data.train_batch_size=4", "algorithm.adv_estimator=grpo", f"{R}.n=2", f"{R}.calculate_log_probs=True"),
        *(f"{A}.ppo_mini_batch_size=4", f"{A}.ppo_micro_batch_size_per_gpu=4"),
        *(f"{R}.log_prob_micro_batch_size_per_gpu=4", "critic.ppo_micro_batch_size_per_gpu=4"),
    )


@pytest.fixture
def config(basic):
    return lambda *overrides: changed(basic, overrides)


def found(config, level=Level.ERROR):
    return [finding.text for check in CHECKS for finding in check(config) if finding.level is level]


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        SEPARATE,
        ["trainer.n_gpus_per_node=2", "ray_kwargs.ray_init.num_gpus=2", f"{A}.ppo_micro_batch_size_per_gpu=2"],
        [f"{A}.use_dynamic_bsz=True", f"{R}.log_prob_use_dynamic_bsz=True"],
        ["algorithm.adv_estimator=gae"],
        ["data.gen_batch_size=2"],
        # An evaluation makes no update.
        ["trainer.val_only=True", f"{A}.ppo_micro_batch_size_per_gpu=3", f"{R}.log_prob_micro_batch_size_per_gpu=16"],
        # Other trainers load one prompt at a time, whatever is asked for.
        ["data.gen_batch_size=3", f"{MODE}=cleaner_colocate_async"],
        ["algorithm.rollout_correction.rollout_is=token"],
        [f"{A}.use_kl_loss=True", f"{A}.kl_loss_type=k3+", "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=4"],
    ],
)
def test_what_works_passes(config, overrides):
    assert found(config(*overrides)) == []


# ---- VeRL's own code, on a configuration -----------------------------------------------------------------------------


def separate_trainer(config):
    from verl.trainer.ppo.v1.trainer_separate_async import PPOTrainerSeparateAsync

    PPOTrainerSeparateAsync(verls(config))


def replay_buffer(config):
    trainer(config)._build_replay_buffer()


def loader(config):
    trainer(config, train_dataloader_it=None, train_dataloader=[])._next_train_batch()


def checkpoint(config):
    trainer(config)._load_checkpoint()


def callback(config):
    from verl.trainer.ppo.checkpoint_callback import build_checkpoint_callback

    build_checkpoint_callback(config)


def engine(config):
    from verl.checkpoint_engine import CheckpointEngineRegistry

    CheckpointEngineRegistry.new(config.actor_rollout_ref.rollout.checkpoint_engine.backend, bucket_size=1)


def correction(config):
    from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_and_add_to_batch

    row = torch.zeros(1, 2)
    batch = {"old_log_probs": row, "rollout_log_probs": row, "response_mask": torch.ones(1, 2)}
    compute_rollout_correction_and_add_to_batch(SimpleNamespace(batch=batch), config.algorithm.rollout_correction)


def estimator(config):
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn

    get_adv_estimator_fn(config.algorithm.adv_estimator)


def loss(config):
    from verl.trainer.ppo.core_algos import get_policy_loss_fn

    get_policy_loss_fn(config.actor_rollout_ref.actor.policy_loss.loss_mode)


def kl_loss(config):
    from verl.trainer.ppo.core_algos import kl_penalty

    kl_penalty(torch.zeros(1), torch.zeros(1), config.actor_rollout_ref.actor.kl_loss_type)


def kl_controller(config):
    from verl.trainer.ppo.core_algos import get_kl_controller

    get_kl_controller(config.algorithm.kl_ctrl)


def loggers(config):
    from verl.utils.tracking import Tracking

    Tracking("project", "experiment", OmegaConf.to_container(config.trainer.logger))


def update(config):
    """VeRL's mini-batches, of one of several processes."""
    from verl.workers.engine_workers import TrainingWorker

    actor, n = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout.n
    rows = TensorDict({"x": torch.zeros(4)}, batch_size=[4])
    tu.assign_non_tensor(rows, mini_batch_size=actor.ppo_mini_batch_size * n)
    worker = SimpleNamespace(engine=SimpleNamespace(get_data_parallel_size=lambda: config.trainer.n_gpus_per_node))
    TrainingWorker.train_mini_batch.__wrapped__(worker, rows)


def update_rows(config):
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    micro_batches(actor.ppo_mini_batch_size * rollout.n, actor.ppo_micro_batch_size_per_gpu)


def log_probs(config):
    rollout = config.actor_rollout_ref.rollout
    micro_batches(config.data.train_batch_size * rollout.n, rollout.log_prob_micro_batch_size_per_gpu)


def micro_batches(count, size):
    from verl.workers.engine.utils import prepare_micro_batches

    rows = TensorDict({"x": torch.zeros(count)}, batch_size=[count])
    tu.assign_non_tensor(rows, use_dynamic_bsz=False, micro_batch_size_per_gpu=size)
    prepare_micro_batches(rows)


def trainer(config, **more):
    from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

    made = object.__new__(PPOTrainerSync)
    made.config, made.trainer_mode, made._add_prompts_to_generate = verls(config), "sync", None
    vars(made).update(more)
    return made


def verls(config):
    return changed(config, [f"{MODE}={late.verl_mode(config)}"])


DAPO = "algorithm.filter_groups.enable=True"
IS = "algorithm.rollout_correction.rollout_is"
RS = "algorithm.rollout_correction.rollout_rs"


@pytest.mark.parametrize(
    ("verl", "overrides", "words"),
    [
        # VeRL's default of parameter_sync_step is 4.
        (
            separate_trainer,
            [*SEPARATE, "trainer.v1.separate_async.parameter_sync_step=4"],
            "got 4 and 4 × 2; write data.train_batch_size=8",
        ),
        (separate_trainer, [*SEPARATE, f"{R}.nnodes=0"], f"{R}.nnodes of at least 1, got 0"),
        (separate_trainer, [*SEPARATE, f"{R}.n_gpus_per_node=0"], f"{R}.n_gpus_per_node of at least 1, got 0"),
        (separate_trainer, [*SEPARATE, f"{R}.checkpoint_engine.backend=naive"], "than naive, VeRL's default"),
        (
            separate_trainer,
            [*SEPARATE, "reward.reward_model.enable=True"],
            "needs reward.reward_model.enable_resource_pool=True",
        ),
        (engine, [f"{R}.checkpoint_engine.backend=nothing"], "checkpoint_engine.backend=nothing is not here"),
        (replay_buffer, ["trainer.v1.sampler.max_off_policy_threshold=0"], "max_off_policy_threshold=0 must be"),
        (replay_buffer, ["trainer.v1.sampler.max_off_policy_strategy=keep"], "expected drop or wait"),
        (replay_buffer, [DAPO, "algorithm.filter_groups.metric=null"], "needs algorithm.filter_groups.metric"),
        (
            replay_buffer,
            [DAPO, "algorithm.filter_groups.metric=acc", "reward.reward_model.enable=True"],
            "groups are filtered before",
        ),
        (loader, ["data.gen_batch_size=3"], "data.gen_batch_size=3 must divide data.train_batch_size=4"),
        (checkpoint, ["trainer.resume_mode=newest"], "trainer.resume_mode=newest is unknown, expected one of auto"),
        (checkpoint, ["trainer.resume_mode=resume_path"], "trainer.resume_from_path=None must end with global_step_"),
        (
            checkpoint,
            ["trainer.resume_mode=resume_path", "trainer.resume_from_path=/no/step_3"],
            "/no/step_3 must end with global_step_",
        ),
        (callback, ["trainer.checkpoint_callback_class=no.such.Class"], "no.such.Class cannot be loaded"),
        (correction, [f"{IS}=tokens"], "rollout_is=tokens"),
        (correction, [f"{IS}=token", "algorithm.rollout_correction.rollout_is_threshold=-1"], "must be positive"),
        (correction, [f"{RS}=seq_mean_k1"], "rollout_rs=seq_mean_k1"),
        (estimator, ["algorithm.adv_estimator=gpro"], "algorithm.adv_estimator=gpro is unknown; did you mean grpo?"),
        (loss, [f"{A}.policy_loss.loss_mode=gspoo"], "loss_mode=gspoo is unknown; did you mean gspo?"),
        (kl_loss, [f"{A}.use_kl_loss=True", f"{A}.kl_loss_type=k4"], "kl_loss_type=k4 is unknown"),
        (
            kl_controller,
            ["algorithm.use_kl_in_reward=True", "algorithm.kl_ctrl.type=adaptiv"],
            "kl_ctrl.type=adaptiv is unknown; did you mean adaptive?",
        ),
        (loggers, ["trainer.logger=[console,tensorbord]"], "tensorbord is unknown; did you mean tensorboard?"),
        (
            update,
            ["trainer.n_gpus_per_node=3", "ray_kwargs.ray_init.num_gpus=3", "data.train_batch_size=6"],
            "must be a multiple of the 3 processes with rows of their own, got 8",
        ),
        (update_rows, [f"{A}.ppo_micro_batch_size_per_gpu=3"], "ppo_micro_batch_size_per_gpu=3 must divide the rows"),
        (log_probs, [f"{R}.log_prob_micro_batch_size_per_gpu=16"], "log_prob_micro_batch_size_per_gpu=16 must divide"),
    ],
)
def test_verl_fails_late_and_the_checks_say_so_first(config, verl, overrides, words):
    made = config(*overrides)
    with pytest.raises((AssertionError, ValueError, TypeError, NotImplementedError, UnboundLocalError, ImportError)):
        verl(made)
    refused = found(made)
    assert any(words in text for text in refused), refused


# ---- what only processes of VeRL's would find out --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([f"{R}.tensor_model_parallel_size=2"], "cannot be divided by actor_rollout_ref.rollout.tensor_model"),
        ([f"{A}.fsdp_config.ulysses_sequence_parallel_size=2"], "needs actor_rollout_ref.model.use_remove_padding"),
        ([f"{A}.fsdp_config.ulysses_sequence_parallel_size=2"], "n_gpus_per_node=1 cannot be divided by"),
        (
            [f"{A}.use_dynamic_bsz=True", f"{R}.log_prob_use_dynamic_bsz=False"],
            f"must be the same as {A}.use_dynamic_bsz, got True",
        ),
        (["ray_kwargs.ray_init.num_gpus=2", "trainer.n_gpus_per_node=4"], "Ray has 2; write ray_kwargs.ray_init.num"),
        ([*SEPARATE, "ray_kwargs.ray_init.num_gpus=1"], "write ray_kwargs.ray_init.num_gpus=2"),
        (
            ["trainer.resume_mode=resume_path", "trainer.resume_from_path=/no/global_step_3"],
            "the folder does not exist",
        ),
        ([f"{IS}=token", f"{R}.calculate_log_probs=False"], "without the rollout's log-probs nothing is corrected"),
        (
            ["algorithm.adv_estimator=gae", "critic.model.override_config.attn_implementation=varlen"],
            "critic.model.override_config.attn_implementation=varlen needs critic.model.use_remove_padding=True",
        ),
    ],
)
def test_refused(config, overrides, words):
    refused = found(config(*overrides))
    assert any(words in text for text in refused), refused


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["algorithm.adv_estimator=gpro", "actor_rollout_ref.model.external_lib=mine"],
            "code of your own has to register it",
        ),
        (
            [
                *(f"{A}.use_dynamic_bsz=True", f"{R}.log_prob_use_dynamic_bsz=True", "data.max_response_length=9000"),
                f"{A}.ppo_max_token_len_per_gpu=8192",
            ],
            "the first row longer than it ends the run",
        ),
    ],
)
def test_warned_of(config, overrides, words):
    made = config(*overrides)
    assert found(made) == []
    assert any(words in text for text in found(made, Level.WARNING))


def test_several_rows_of_a_trajectory_are_not_counted(config, monkeypatch):
    """A loop of the user's may make more rows than one."""
    made = config(f"{R}.log_prob_micro_batch_size_per_gpu=16")
    monkeypatch.setattr(batches, "agent_loops", lambda config: {"mine"})
    assert found(made) == []
