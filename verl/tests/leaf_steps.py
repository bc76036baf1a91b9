"""Optimizer steps of VeRL's own actor worker with leaves, for test_leaf_steps.py: `python leaf_steps.py FOLDER`.

As pair_steps.py: FOLDER/rows.pt and FOLDER/model in, FOLDER/steps<WORLD_SIZE>.pt out.
"""

import os
from functools import partial
from pathlib import Path

import torch
from pair_steps import actor_config, full, main, make_adapted_worker, make_worker
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.engine_workers import TrainingWorker

from verl_cleaner.training.actor import ExtendedActorWorker, ExtendedTrainingWorker
from verl_cleaner.training.credit.minibatch import VALUES_FIELD
from verl_cleaner.training.overwritten_loss import marked_loss

ACTOR = "actor_rollout_ref.actor"
KL = (f"{ACTOR}.use_kl_loss=True", f"{ACTOR}.kl_loss_coef=0.3")
NORM = (f"{ACTOR}.loss_agg_mode=seq-mean-token-sum-norm", f"{ACTOR}.loss_scale_factor=50")
STEPS: dict[str, dict] = {
    "stock": {"stock": True, "without": [VALUES_FIELD]},
    "no field": {"without": [VALUES_FIELD]},
    "no leaves": {"no_leaves": True},
    "leaves": {},
    "micro-batches of 1": {"micro_batch_size_per_gpu": 1},
    "micro-batches of 4": {"micro_batch_size_per_gpu": 4},
    "dynamic": {"use_dynamic_bsz": True, "max_token_len_per_gpu": 70},
    "dynamic, leaves over budget": {"use_dynamic_bsz": True, "max_token_len_per_gpu": 48},
    "packed": {"use_remove_padding": True},
    "packed, dynamic": {"use_remove_padding": True, "use_dynamic_bsz": True, "max_token_len_per_gpu": 70},
    "loss scaling": {"scaler": True},
    "mini-batches": {"mini_batch_size": 4},
    "importance weights": {"with": ["rollout_is_weights"]},
    "kl": {"with": ["ref_log_prob"], "overrides": KL},
    "seq-mean-token-sum": {"overrides": (f"{ACTOR}.loss_agg_mode=seq-mean-token-sum",)},
    "seq-mean-token-mean": {"overrides": (f"{ACTOR}.loss_agg_mode=seq-mean-token-mean",)},
    "seq-mean-token-sum-norm": {"overrides": NORM},
    "mini-batches, seq-mean-token-mean": {
        "mini_batch_size": 4,
        "overrides": (f"{ACTOR}.loss_agg_mode=seq-mean-token-mean",),
    },
}
OPTIONAL = ("rollout_is_weights", "ref_log_prob")


def make_batch(rows: list[dict], settings: dict):
    """This process's share of the rows, as VeRL would hand it over; each mini-batch is dealt out."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    size = settings.get("mini_batch_size", len(rows))
    share = [row for first in range(0, len(rows), size) for row in rows[first : first + size][rank::world]]
    left_out = {*settings.get("without", ()), *(set(OPTIONAL) - set(settings.get("with", ())))}
    names = [name for name in share[0] if name not in left_out]
    columns = {name: torch.nested.as_nested_tensor([row[name] for row in share], layout=torch.jagged) for name in names}
    info = {
        "mini_batch_size": size,
        "global_batch_size": size,
        "epochs": 1,
        "seed": 0,
        "dataloader_kwargs": {"shuffle": False},
        "temperature": 1.0,
        "calculate_entropy": False,
        "micro_batch_size_per_gpu": 2,
    }
    chosen = ("micro_batch_size_per_gpu", "use_dynamic_bsz", "max_token_len_per_gpu", "use_remove_padding")
    columns["uid"] = [f"group {number}" for number in range(len(share))]
    return tu.get_tensordict(columns, info | {key: settings[key] for key in chosen if key in settings})


def run_step(worker: ExtendedActorWorker, folder: Path, rows: list[dict], settings: dict) -> dict:
    """From the model's first weights."""
    engine = worker.actor.engine
    module, optimizer = engine.module, engine.optimizer
    start = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    if settings.get("no_leaves"):
        rows = [row | {VALUES_FIELD: torch.zeros(1)} for row in rows]
    config = omega_conf_to_dataclass(actor_config(folder, *settings.get("overrides", ())).actor)
    worker.set_loss_fn(partial(marked_loss, config))
    worker.actor.__class__ = TrainingWorker if settings.get("stock") else ExtendedTrainingWorker
    gradients: list[dict] = []

    def look(*_):
        gradients.append({name: full(p.grad) for name, p in module.named_parameters() if p.requires_grad})

    hook = optimizer.register_step_pre_hook(look)
    engine.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0) if settings.get("scaler") else None
    output = worker.update_actor(make_batch(rows, settings))
    hook.remove()
    weights = {name: full(parameter) for name, parameter in module.named_parameters()}
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(start[name])
    return {"gradients": gradients, "weights": weights, "metrics": dict(tu.get(output, "metrics"))}


def work(folder: Path, world: int, rank: int) -> None:
    rows = torch.load(folder / "rows.pt")
    worker = make_worker(folder, role="actor_rollout")
    adapted = make_adapted_worker(folder)
    steps = {name: run_step(worker, folder, rows, settings) for name, settings in STEPS.items()}
    steps |= {f"adapter, {name}": run_step(adapted, folder, rows, STEPS[name]) for name in ("no leaves", "leaves")}
    if rank == 0:
        torch.save(steps, folder / f"steps{world}.pt")


if __name__ == "__main__":
    main(work)
