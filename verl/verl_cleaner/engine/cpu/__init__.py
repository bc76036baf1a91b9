"""Run VeRL without a GPU: platform, process group, FSDP2 on gloo, a batching rollout server, workers by fork.

VERL_PLATFORM=cpu chooses it; `main_ppo` sets this for `trainer.device=cpu`. Without it nothing is registered.
"""

import os
import warnings
from typing import Any

from wrapt import register_post_import_hook

ROLLOUT_NAME = "cpu"


def register() -> None:
    """Register the CPU backend with VeRL. Call before VeRL asks for its platform."""
    from verl.plugin.platform.platform_manager import PlatformRegistry

    from verl_cleaner.engine.cpu.platform import CpuPlatform

    PlatformRegistry.register("cpu")(CpuPlatform)
    # VeRL warns in every process that its engines for GPUs are not available.
    warnings.filterwarnings("ignore", message=r"\w+ engine is not available")
    # VeRL's FSDP engine is registered for cuda and runs on CPU unchanged.
    os.environ["VERL_ENGINE_DEVICE"] = "cuda"
    register_post_import_hook(_use_gloo, "verl.utils.distributed")
    register_post_import_hook(_unpin_offload, "verl.utils.fsdp_utils")
    register_post_import_hook(_copy_saved_weights, "verl.utils.fsdp_utils")
    register_post_import_hook(_register_replica, "verl.workers.rollout.replica")
    register_post_import_hook(_register_adapter, "verl.workers.rollout.base")
    register_post_import_hook(_register_checkpoint_engine, "verl.checkpoint_engine")
    register_post_import_hook(_keep_vllm_weights, "vllm.model_executor.layers.utils")
    register_post_import_hook(_score_vllm_prompts, "vllm.lora.punica_wrapper.punica_cpu")


def _use_gloo(module: Any) -> None:
    """On this platform VeRL asks for the backend "cpu:gloo,cpu:gloo", which torch refuses."""
    stock = module.initialize_global_process_group_ray

    def initialize_global_process_group_ray(timeout_second: int | None = None, backend: str | None = None) -> None:
        stock(timeout_second=timeout_second, backend=backend or "cpu:gloo")

    def initialize_global_process_group(timeout_second: int = 36000) -> tuple[int, int, int]:
        """As the SFT trainer calls it, under torchrun."""
        initialize_global_process_group_ray(timeout_second)
        return tuple(int(os.environ[name]) for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE"))  # type: ignore[return-value]

    module.initialize_global_process_group_ray = initialize_global_process_group_ray
    module.initialize_global_process_group = initialize_global_process_group


def _unpin_offload(module: Any) -> None:
    """VeRL offloads the reference model from the GPU to pinned memory. Without a GPU there is nothing to offload."""

    def no_offload(pin_memory: bool = False) -> None:
        return None

    module.CPUOffloadPolicy = no_offload


def _copy_saved_weights(module: Any) -> None:
    """`separate_async` keeps weights from before an update with `.cpu()`, which copies nothing here."""
    stock = module.fsdp2_sharded_save_to_cpu

    def fsdp2_sharded_save_to_cpu(model: Any) -> tuple[dict[str, tuple[Any, Any]], Any]:
        state, spec = stock(model)
        return {name: (tensor.clone(), own) for name, (tensor, own) in state.items()}, spec

    module.fsdp2_sharded_save_to_cpu = fsdp2_sharded_save_to_cpu


def _register_replica(module: Any) -> None:
    def load() -> type:
        from verl_cleaner.engine.cpu.rollout import CpuReplica

        return CpuReplica

    module.RolloutReplicaRegistry.register(ROLLOUT_NAME, load)


def _register_adapter(module: Any) -> None:
    module._ROLLOUT_REGISTRY[(ROLLOUT_NAME, "async")] = "verl_cleaner.engine.cpu.rollout.CpuServerAdapter"


def _register_checkpoint_engine(_: Any) -> None:
    import verl_cleaner.engine.cpu.checkpoint  # noqa: F401  # it registers itself


def _keep_vllm_weights(module: Any) -> None:
    from verl_cleaner.engine.cpu.vllm_build import keep_weights

    keep_weights(module)


def _score_vllm_prompts(module: Any) -> None:
    from verl_cleaner.engine.cpu.vllm_build import score_prompts_with_adapters

    score_prompts_with_adapters(module)
