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


def python(program, *arguments, **environment):
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("VERL_", "RAY_"))}
    run = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=clean | environment,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


STOCK = """
import json, os, sys
os.environ["VERL_USE_EXTERNAL_PLUGINS"] = sys.argv[1]
import verl.trainer.main_ppo, verl.trainer.ppo.v1, verl.workers.engine_workers, verl.experimental.agent_loop
from verl.experimental.agent_loop import agent_loop
from verl.trainer.ppo.v1 import trainer_base
from verl.utils import torch_functional
from verl.workers.engine.fsdp.transformer_impl import FSDPEngine
from transformers.modeling_utils import AttentionInterface
from omegaconf import OmegaConf
os.environ["CODE_JUDGE_URL"] = "http://judge:1"
config = OmegaConf.create({"trainer": {"v1": {"trainer_mode": "sync"}}, "async_training": {}})
print(json.dumps({
    "loops": agent_loop._agent_loop_registry,
    "log-probs": torch_functional.logprobs_from_logits_v2.__module__,
    "engine": hasattr(FSDPEngine._build_fsdp_module, "__wrapped__"),
    "attention": sorted(AttentionInterface._global_mapping),
    "trainers": sorted(trainer_base.TRAINER_REGISTRY),
    "environment": verl.trainer.main_ppo.get_ppo_ray_runtime_env(config),
    "ours": sorted(name for name in sys.modules if name.startswith(("verl_cleaner", "cleaner_lab", "code_judge"))),
}))
"""


def test_the_plugin_imports_one_small_module():
    found = python(PROGRAM + REPORT)
    extra = {name for name in found["extra"] if name.startswith(("verl", "torch", "transformers"))}
    assert extra == {"verl_cleaner", "verl_cleaner.plugin"}


def test_installed_but_not_chosen_it_adds_names_and_changes_nothing():
    off, installed = (python(STOCK, policy) for policy in ("none", "auto"))
    assert installed.pop("ours") == ["verl_cleaner", "verl_cleaner.driver", "verl_cleaner.plugin"]
    assert off.pop("ours") == []
    added = set(installed.pop("trainers")) - set(off.pop("trainers"))
    assert added == {"cleaner", "cleaner_colocate_async", "cleaner_separate_async"}
    assert installed == off


ENGINE = """
import json
import verl.trainer.main_ppo
from verl.utils.import_utils import import_external_libs
import_external_libs("verl_cleaner.engine.install")
from verl.utils import torch_functional
from verl.workers.engine.fsdp.transformer_impl import FSDPEngine
from transformers.modeling_utils import AttentionInterface
print(json.dumps({
    "log-probs": torch_functional.logprobs_from_logits_v2.__module__,
    "engine": hasattr(FSDPEngine._build_fsdp_module, "__wrapped__"),
    "attention": "varlen" in AttentionInterface._global_mapping,
}))
"""


def test_the_engine_is_changed_where_verl_imports_our_module():
    """As `model.external_lib` is imported."""
    found = python(ENGINE)
    assert found["log-probs"] == "verl_cleaner.engine.logprobs"
    assert found["engine"] is True
    assert found["attention"] is True


def test_the_cpu_backend_is_registered_by_its_switch_and_imported_when_used():
    found = python(PROGRAM + CPU_REPORT, VERL_PLATFORM="cpu")
    extra = {name.removeprefix("verl_cleaner.") for name in found["extra"] if name.startswith("verl_cleaner.")}
    engine = ("cpu", "cpu.platform")
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
