"""Optimizer steps of VeRL's own actor worker with pairs, for test_pair_steps.py: `python pair_steps.py FOLDER`.

In a world of one process and in one of two, at once. Reads FOLDER/rows.pt, a model in FOLDER/model, and the first
process of each world writes FOLDER/steps<WORLD_SIZE>.pt: for each of STEPS the gradients and weights, by name, and the
metrics. All are forks of this process, which has imported VeRL for them.
"""

import multiprocessing.connection
import os
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from loop_harness import make_config
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.engine_workers import TrainingWorker
from verl.workers.utils.losses import ppo_loss

from verl_cleaner.rollout.carried import PAIRS_FIELD
from verl_cleaner.training.actor import ExtendedActorWorker, ExtendedTrainingWorker
from verl_cleaner.training.pairs.config import DpoConfig
from verl_cleaner.training.pairs.grant import GRANTED_FIELD
from verl_cleaner.training.pairs.rows import pair_rows, to_batch
from verl_cleaner.training.pairs.step import means_of, pair_weights, weighted_loss

LOOSE = DpoConfig(use_dpo_on_tool_calls=True, dpo_beta=0.3, dpo_max_adjustment_ratio=1.0)
TIGHT = DpoConfig(use_dpo_on_tool_calls=True, dpo_beta=0.3, dpo_max_adjustment_ratio=0.01)
REF = DpoConfig(use_dpo_on_tool_calls=True, dpo_beta=0.3, dpo_max_adjustment_ratio=1.0, dpo_reference="ref")
REF_SCALE = 0.9
"""The reference policy's weights are the actor's times this."""

Work = Callable[[Path, int, int], None]
"""(folder, size of the world, rank in it)."""

NO_PAIRS = [0] * 8
SECONDS = 300
STEPS = {
    "stock": {"stock": True, "bare": True},
    "stock, pairs on board": {"stock": True},
    "no pairs": {"granted": NO_PAIRS},
    "pairs": {},
    "micro-batches of 1": {"micro_batch_size_per_gpu": 1},
    "micro-batches of 2": {"micro_batch_size_per_gpu": 2},
    "dynamic": {"use_dynamic_bsz": True, "max_token_len_per_gpu": 70},
    "dynamic, pairs over budget": {"use_dynamic_bsz": True, "max_token_len_per_gpu": 48},
    "packed": {"use_remove_padding": True},
    "packed, dynamic": {"use_remove_padding": True, "use_dynamic_bsz": True, "max_token_len_per_gpu": 70},
    "tight": {"dpo": TIGHT},
    "reference": {"dpo": REF},
    "loss scaling": {"scaler": True},
    "one pair": {"granted": [1, *NO_PAIRS[1:]]},
    "mini-batches": {"mini_batch_size": 4},
}


def actor_config(folder: Path, *overrides: str) -> Any:
    """VeRL's section actor_rollout_ref, with an optimizer that shows its gradient."""
    return make_config(
        f"actor_rollout_ref.model.path={folder / 'model'}",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4",
        "actor_rollout_ref.actor.optim.optimizer=SGD",
        "actor_rollout_ref.actor.optim.lr=0.1",
        "actor_rollout_ref.actor.optim.weight_decay=0",
        "actor_rollout_ref.actor.optim.clip_grad=1e9",
        "actor_rollout_ref.actor.optim.total_training_steps=10",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=4",
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=4",
        "+actor_rollout_ref.ref.fsdp_config.mixed_precision=${actor_rollout_ref.actor.fsdp_config.mixed_precision}",
        *overrides,
    ).actor_rollout_ref


def make_worker(folder: Path, *overrides: str, role: str = "actor_rollout_ref") -> ExtendedActorWorker:
    config = actor_config(folder, *overrides)
    worker = ExtendedActorWorker(config, role=role)
    worker.init_model()
    worker.set_loss_fn(partial(ppo_loss, omega_conf_to_dataclass(config.actor)))
    return worker


@torch.no_grad()
def make_workers(folder: Path) -> tuple[ExtendedActorWorker, ExtendedActorWorker]:
    """One with a reference policy of its own, and one that trains an adapter."""
    worker = make_worker(folder)
    for parameter in worker.ref.engine.module.parameters():
        parameter.mul_(REF_SCALE)
    return worker, make_adapted_worker(folder)


@torch.no_grad()
def make_adapted_worker(folder: Path) -> ExtendedActorWorker:
    torch.manual_seed(0)
    adapted = make_worker(folder, "actor_rollout_ref.model.lora_rank=4", role="actor_rollout")
    for name, parameter in adapted.actor.engine.module.named_parameters():
        if "lora_B" in name:
            parameter.copy_(
                torch.distributed.tensor.distribute_tensor(torch.randn(parameter.shape), parameter.device_mesh)
            )
    return adapted


def full(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().clone()


def make_batch(rows: list[dict], settings: dict):
    """This process's share of the rows, as VeRL would hand it over."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    share = rows[rank * len(rows) // world : (rank + 1) * len(rows) // world]
    columns = {key: [row[key] for row in share] for key in share[0]}
    nested = {
        key: torch.nested.as_nested_tensor(column, layout=torch.jagged)
        for key, column in columns.items()
        if key != GRANTED_FIELD
    }
    if GRANTED_FIELD in columns:
        nested[GRANTED_FIELD] = torch.stack(columns[GRANTED_FIELD])
    size = settings.get("mini_batch_size", len(rows))
    info = {
        "mini_batch_size": size,
        "global_batch_size": size,
        "epochs": 1,
        "seed": 0,
        "dataloader_kwargs": {"shuffle": False},
        "temperature": 1.0,
        "calculate_entropy": False,
        "micro_batch_size_per_gpu": 4 if world == 1 and size == len(rows) else 2,
    }
    chosen = ("micro_batch_size_per_gpu", "use_dynamic_bsz", "max_token_len_per_gpu", "use_remove_padding")
    return tu.get_tensordict(nested, info | {key: settings[key] for key in chosen if key in settings})


def run_step(worker: ExtendedActorWorker, rows: list[dict], settings: dict) -> dict:
    """From the model's first weights."""
    module, optimizer = worker.actor.engine.module, worker.actor.engine.optimizer
    start = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    granted = settings.get("granted") or [int(row[GRANTED_FIELD]) for row in rows]
    rows = [row | {GRANTED_FIELD: torch.tensor(count)} for row, count in zip(rows, granted, strict=True)]
    if settings.get("bare"):
        rows = [{key: row[key] for key in row if key not in (PAIRS_FIELD, GRANTED_FIELD)} for row in rows]
    worker.set_pairs(settings.get("dpo", LOOSE))
    worker.actor.__class__ = TrainingWorker if settings.get("stock") else ExtendedTrainingWorker
    gradients: list[dict] = []

    def look(*_):
        gradients.append({name: full(p.grad) for name, p in module.named_parameters() if p.requires_grad})

    hook = optimizer.register_step_pre_hook(look)
    worker.actor.engine.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0) if settings.get("scaler") else None
    output = worker.update_actor(make_batch(rows, settings))
    hook.remove()
    weights = {name: full(parameter) for name, parameter in module.named_parameters()}
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(start[name])
    return {"gradients": gradients, "weights": weights, "metrics": dict(tu.get(output, "metrics"))}


def pairs_alone(worker: ExtendedActorWorker, rows: list[dict], steps: int = 15) -> list[list[float]]:
    """Margins of all pairs before each of some steps on nothing but the pairs."""
    actor, margins = worker.actor, []
    data = make_batch(rows, {})
    chosen = pair_rows(data)
    batch = to_batch(chosen, data, actor.engine_config, length=len(chosen))
    for _ in range(steps):
        means = means_of(actor.engine, batch, actor.engine.eval_mode())[: len(chosen)]
        margins.append((means[0::2] - means[1::2]).tolist())
        batch["weight"] = pair_weights(means[0::2] - means[1::2], len(batch), beta=2.0).of_rows
        with actor.engine.train_mode():
            actor.engine.optimizer_zero_grad()
            actor.engine.forward_backward_batch(batch, weighted_loss)
            actor.engine.optimizer_step()
    return margins


def work(folder: Path, world: int, rank: int) -> None:
    rows = torch.load(folder / "rows.pt")
    worker, adapted = make_workers(folder)
    steps = {name: run_step(worker, rows, settings) for name, settings in STEPS.items()}
    steps["adapter"] = run_step(adapted, rows, {})
    steps["adapter, reference"] = run_step(adapted, rows, {"dpo": REF})
    if world == 1:
        steps["alone"] = pairs_alone(worker, rows)
    if rank == 0:
        torch.save(steps, folder / f"steps{world}.pt")


def in_world(work: Work, folder: Path, world: int, rank: int, port: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": "0"}
    work(folder, world, rank)


def main(work: Work) -> None:
    """Do `work` in a world of one process and in one of two, at once."""
    folder, fork = Path(sys.argv[1]), multiprocessing.get_context("fork")
    processes = []
    for world in (1, 2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        tasks = [(work, folder, world, rank, port) for rank in range(world)]
        processes += [fork.Process(target=in_world, args=task, daemon=True) for task in tasks]
    for process in processes:
        process.start()
    while alive := [process.sentinel for process in processes if process.is_alive()]:
        # One that fails would be waited for by its peer; leaving ends them all.
        if not multiprocessing.connection.wait(alive, SECONDS) or any(process.exitcode for process in processes):
            break
    sys.exit(any(process.exitcode != 0 for process in processes))


if __name__ == "__main__":
    main(work)
