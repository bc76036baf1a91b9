"""What importing VeRL costs with the plug-in, and what it registers."""

import json
import os
import subprocess
import sys

import pytest

# VeRL without plug-ins first; what is there afterwards is what the plug-in brought.
PROGRAM = """
import json, os, sys
os.environ["VERL_USE_EXTERNAL_PLUGINS"] = "none"
import verl
stock = set(sys.modules)
import verl_cleaner.plugin
extra = sorted(set(sys.modules) - stock)
"""

REPORT = """
print(json.dumps({"extra": extra}))
"""

CPU_REPORT = """
from verl.plugin.platform.platform_manager import PlatformRegistry, get_platform
from verl.workers.rollout import base, replica
import verl.utils.distributed, verl.utils.fsdp_utils
print(json.dumps({
    "extra": extra,
    "platform": get_platform().device_name,
    "adapter": base._ROLLOUT_REGISTRY.get(("cpu", "async")),
    "replica": replica.RolloutReplicaRegistry.get("cpu").__module__,
    "gloo": verl.utils.distributed.initialize_global_process_group_ray.__module__,
    "offload": verl.utils.fsdp_utils.CPUOffloadPolicy(pin_memory=True),
}))
"""


def python(program, **environment):
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("VERL_", "RAY_"))}
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env=clean | environment
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_the_plugin_imports_small_modules_only():
    found = python(PROGRAM + REPORT)
    extra = {name for name in found["extra"] if name.startswith(("verl", "torch", "transformers"))}
    modules = ("", ".plugin", ".engine", ".engine.attention", ".engine.logprobs", ".engine.precision")
    assert extra == {f"verl_cleaner{name}" for name in modules}


def test_the_cpu_backend_is_registered_by_its_switch_and_imported_when_used():
    found = python(PROGRAM + CPU_REPORT, VERL_PLATFORM="cpu")
    extra = {name.removeprefix("verl_cleaner.") for name in found["extra"] if name.startswith("verl_cleaner.")}
    engine = ("attention", "logprobs", "precision", "cpu", "cpu.platform")
    assert extra == {"plugin", "engine", *(f"engine.{name}" for name in engine)}
    assert found["platform"] == "cpu"
    assert found["adapter"] == "verl_cleaner.engine.cpu.rollout.CpuServerAdapter"
    assert found["replica"] == "verl_cleaner.engine.cpu.rollout"
    assert found["gloo"] == "verl_cleaner.engine.cpu"
    assert found["offload"] is None


def test_without_the_switch_nothing_of_it_is_registered():
    from verl.plugin.platform.platform_manager import PlatformRegistry

    if os.environ.get("VERL_PLATFORM") == "cpu":
        pytest.skip("this process runs with the switch")
    assert "cpu" not in PlatformRegistry.registered_names()
