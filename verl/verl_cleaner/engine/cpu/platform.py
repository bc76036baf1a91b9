"""VeRL's platform interface for a host without an accelerator."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from verl.plugin.platform.platform_base import PlatformBase

_VLLM_BINDING = "VLLM_CPU_OMP_THREADS_BIND"

_Unit = SimpleNamespace(uuid="cpu", name="cpu", total_memory=0)


def _device_module() -> ModuleType:
    """`torch.cpu` with the functions for memory and streams that VeRL calls on the module of an accelerator."""
    module = ModuleType("verl_cleaner.engine.cpu.device")
    module.__dict__.update({name: getattr(torch.cpu, name) for name in dir(torch.cpu) if not name.startswith("__")})
    module.__dict__.update(dict.fromkeys(_NOTHING, lambda *args, **kwargs: 0))
    module.__dict__.update(
        is_available=lambda: True,
        current_device=lambda: 0,
        device_count=lambda: 1,
        mem_get_info=_host_memory,
        get_device_name=lambda *args: "cpu",
        get_device_properties=lambda *args: _Unit,
        get_rng_state=lambda *args: torch.get_rng_state(),
        set_rng_state=lambda state, *args: torch.set_rng_state(state),
        manual_seed=torch.manual_seed,
        manual_seed_all=torch.manual_seed,
        stream=lambda *args: nullcontext(),
    )
    return module


_NOTHING = (
    *("memory_allocated", "memory_reserved", "max_memory_allocated", "max_memory_reserved", "reset_peak_memory_stats"),
    *("set_per_process_memory_fraction", "empty_cache", "ipc_collect", "set_device", "synchronize"),
)
"""Functions that have nothing to do here; of memory, 0 bytes are in use."""


def _host_memory(*_: Any) -> tuple[int, int]:
    """(free, total) bytes."""
    page = os.sysconf("SC_PAGE_SIZE")
    return page * os.sysconf("SC_AVPHYS_PAGES"), page * os.sysconf("SC_PHYS_PAGES")


class CpuPlatform(PlatformBase):
    """One logical device. Ray knows it as a GPU (`ray_init.num_gpus=1`) because VeRL places workers by that name."""

    _module = _device_module()

    device_name = "cpu"
    vendor_name = "cpu"

    @property
    def device_module(self) -> ModuleType:
        return self._module

    def is_available(self) -> bool:
        return True

    def current_device(self) -> torch.device:  # type: ignore[override]  # an index would mean cuda:0
        return torch.device("cpu")

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        pass

    def synchronize(self, device_index: int | None = None) -> None:
        pass

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        pass

    def empty_cache(self) -> None:
        pass

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        pass

    def profiler_stop(self) -> None:
        pass

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        return False

    def rollout_env_vars(self) -> dict[str, str]:
        """vLLM would bind the threads of each server to the same core, where another process may compute."""
        return {_VLLM_BINDING: os.environ.get(_VLLM_BINDING, "nobind")}

    def cudart(self) -> Any:
        return None
