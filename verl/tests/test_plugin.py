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


FORKS = """
import json, os, sys
# What VeRL's first line imports; of VeRL itself there is nothing yet.
import ray, tensordict, torch, transformers
assert not any(name.partition(".")[0] in ("verl", "verl_cleaner") for name in sys.modules)
folder, programs = sys.argv[1], json.loads(sys.argv[2])
failed = 0
for name, (program, arguments, environment) in programs.items():
    if os.fork() == 0:
        os.dup2(os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT), 1)
        os.environ.update(environment)
        sys.argv[1:] = arguments
        exec(program, {"__name__": "__main__"})
        sys.exit()
    failed |= os.wait()[1]
sys.exit(bool(failed))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each program prints last. Each has an interpreter of its own, a fork of one that has imported torch."""
    folder = tmp_path_factory.mktemp("programs")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("VERL_", "RAY_"))}
    command = [sys.executable, "-c", FORKS, str(folder), json.dumps(PROGRAMS)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, env=clean)
    assert run.returncode == 0, run.stderr
    return {name: json.loads((folder / name).read_text().splitlines()[-1]) for name in PROGRAMS}


STOCK = """
import json, os, sys
os.environ["VERL_USE_EXTERNAL_PLUGINS"] = sys.argv[1]
import verl.trainer.main_ppo, verl.trainer.ppo.v1, verl.workers.engine_workers, verl.experimental.agent_loop
from verl.experimental.agent_loop import agent_loop
from verl.plugin.platform.platform_manager import PlatformRegistry
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
    "platforms": sorted(PlatformRegistry.registered_names()),
    "environment": verl.trainer.main_ppo.get_ppo_ray_runtime_env(config),
    "ours": sorted(name for name in sys.modules if name.startswith(("verl_cleaner", "cleaner_lab", "code_judge"))),
}))
"""

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

PROGRAMS = {
    "imports": (PROGRAM + REPORT, [], {}),
    "none": (STOCK, ["none"], {}),
    "auto": (STOCK, ["auto"], {}),
    "engine": (ENGINE, [], {}),
    "cpu": (PROGRAM + CPU_REPORT, [], {"VERL_PLATFORM": "cpu"}),
}
"""Name: program, arguments, environment."""


def test_the_plugin_imports_one_small_module(found):
    extra = {name for name in found["imports"]["extra"] if name.startswith(("verl", "torch", "transformers"))}
    assert extra == {"verl_cleaner", "verl_cleaner.plugin"}


def test_installed_but_not_chosen_it_adds_names_and_changes_nothing(found):
    off, installed = (dict(found[policy]) for policy in ("none", "auto"))
    assert installed.pop("ours") == ["verl_cleaner", "verl_cleaner.driver", "verl_cleaner.plugin"]
    assert off.pop("ours") == []
    added = set(installed.pop("trainers")) - set(off.pop("trainers"))
    assert added == {"cleaner", "cleaner_colocate_async", "cleaner_separate_async"}
    assert installed == off


def test_the_engine_is_changed_where_verl_imports_our_module(found):
    """As `model.external_lib` is imported."""
    engine = {"log-probs": "verl_cleaner.engine.logprobs", "engine": True, "attention": True}
    assert found["engine"] == engine


def test_the_cpu_backend_is_registered_by_its_switch_and_imported_when_used(found):
    cpu = found["cpu"]
    extra = {name.removeprefix("verl_cleaner.") for name in cpu["extra"] if name.startswith("verl_cleaner.")}
    engine = ("cpu", "cpu.platform")
    assert extra == {"plugin", "engine", *(f"engine.{name}" for name in engine)}
    assert cpu["platform"] == "cpu"
    assert cpu["adapter"] == "verl_cleaner.engine.cpu.rollout.CpuServerAdapter"
    assert cpu["replica"] == "verl_cleaner.engine.cpu.rollout"
    assert cpu["gloo"] == "verl_cleaner.engine.cpu"
    assert cpu["offload"] is None


def test_without_the_switch_nothing_of_it_is_registered(found):
    assert "cpu" not in found["auto"]["platforms"]
