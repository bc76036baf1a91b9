"""VeRL's platform interface on a host without an accelerator."""

import pytest
import torch

from verl_cleaner.engine.cpu.platform import CpuPlatform


@pytest.fixture
def platform():
    return CpuPlatform()


def test_what_verl_decides_by(platform):
    assert platform.device_name == "cpu"
    assert platform.current_device() == torch.device("cpu")
    assert platform.communication_backend_name() == "gloo"
    assert platform.ray_resource_name() == "GPU"
    assert platform.is_available()
    assert platform.device_count() == 1
    assert not platform.is_ipc_supported()
    assert platform.get_device_capability() == (None, None)


def test_the_device_module_has_what_verl_reads(platform):
    module = platform.device_module
    for name in ("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved"):
        assert getattr(module, name)() == 0
    free, total = module.mem_get_info()
    assert 0 < free < total
    module.empty_cache()
    module.synchronize()
    with module.stream(None):
        pass
    assert module.get_device_name() == "cpu"


def test_random_state_is_the_hosts(platform):
    state = platform.device_module.get_rng_state()
    platform.manual_seed(3)
    first = torch.rand(2)
    platform.device_module.manual_seed_all(3)
    assert torch.equal(torch.rand(2), first)
    platform.device_module.set_rng_state(state)
    assert torch.equal(torch.get_rng_state(), state)


def test_nothing_abstract_is_left(platform):
    assert not CpuPlatform.__abstractmethods__
    with platform.nvtx_range("step"):
        platform.profiler_start()
        platform.profiler_stop()
    assert platform.cudart() is None


def test_vllm_binds_no_threads_unless_it_is_told_to(platform, monkeypatch):
    name = "VLLM_CPU_OMP_THREADS_BIND"
    monkeypatch.delenv(name, raising=False)
    assert platform.rollout_env_vars() == {name: "nobind"}
    monkeypatch.setenv(name, "0,1")
    assert platform.rollout_env_vars() == {name: "0,1"}
