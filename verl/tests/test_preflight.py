"""What is refused before Ray starts, and in which words."""

import importlib.metadata
import importlib.util
import json
import logging
import pickle
import sys
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from composing import changed, composed
from tiny import tiny_dataset, tiny_model, tiny_sglang

from verl_cleaner import preflight
from verl_cleaner.preflight import attention, checks, host, loaded, lora
from verl_cleaner.preflight.checks import CONFIGURATION, TRAINER_NODE, findings
from verl_cleaner.preflight.finding import Level

MT = "actor_rollout_ref.rollout.multi_turn"
AGENT = "actor_rollout_ref.rollout.agent"
ROLLBACK_ON = f"+{MT}.enable_tool_rollback=True"
FLAGS = [
    ROLLBACK_ON,
    f"+{MT}.max_tool_retries=3",
    f"+{MT}.rollback_probability=0.7",
    f"+{MT}.rollback_similarity_threshold=0.5",
    f"+{MT}.rollback_at_validation=True",
    f"+{MT}.rollback_on_errors=[NameError,timeout]",
]
NEGATIVES = f"+{MT}.save_negative_samples=True"
LEAF = (ROLLBACK_ON, f"+{MT}.rollback_failed_calls=leaf")
ROUTER = "reward.custom_reward_function.path=pkg://verl_cleaner.reward.router"
DPO = "+algorithm.use_dpo_on_tool_calls=True"
FP16 = "actor_rollout_ref.actor.fsdp_config.dtype=float16"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    tiny_model(folder / "model")
    tiny_dataset(folder / "data.parquet")
    return folder


@pytest.fixture
def config(folder, judge, monkeypatch):
    """Makes the configuration of a small run."""
    monkeypatch.setenv("CODE_JUDGE_URL", judge)
    basic = (
        f"actor_rollout_ref.model.path={folder / 'model'}",
        f"data.train_files={folder / 'data.parquet'}",
        f"data.val_files={folder / 'data.parquet'}",
        "data.train_batch_size=4",
        "algorithm.adv_estimator=grpo",
        "actor_rollout_ref.rollout.n=2",
        "actor_rollout_ref.actor.ppo_mini_batch_size=4",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=4",
        "actor_rollout_ref.rollout.tensor_model_parallel_size=1",
        "trainer.logger=[console]",
    )

    def make(*overrides, name="cleaner_cpu", by_hydra=False):
        if by_hydra:
            return composed(name, *basic, *overrides)
        return changed(composed(name, *basic), overrides)

    return make


def problems_of(config):
    preflight.prepare(config)
    with pytest.raises(preflight.PreflightError) as error:
        preflight.check(config)
    return error.value.problems


def warnings_of(config):
    """Of a configuration without errors."""
    preflight.prepare(config)
    found = findings(config, {**CONFIGURATION, **TRAINER_NODE})
    assert [str(finding) for finding in found if finding.level is Level.ERROR] == []
    return [str(finding) for finding in found]


def test_the_documented_flags_pass(config):
    made = config(*FLAGS, by_hydra=True)
    preflight.prepare(made)
    preflight.check(made)


@pytest.mark.parametrize(
    "overrides",
    [
        # As in the published scripts.
        [f"+{MT}.save_negative_samples=False", f"+{MT}.max_negative_samples_per_group=0", "+algorithm.dpo_beta=15"],
        [NEGATIVES, f"+{MT}.max_negative_samples_per_group=2", DPO, "+algorithm.dpo_max_adjustment_ratio=0.1"],
        [NEGATIVES, DPO, "+algorithm.dpo_reference=none"],
        [
            *(NEGATIVES, DPO, "+algorithm.dpo_reference=ref", "actor_rollout_ref.actor.use_kl_loss=True"),
            "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=4",
        ],
        [
            *(NEGATIVES, DPO, "+algorithm.dpo_reference=ref"),
            *("actor_rollout_ref.model.lora_rank=8", "+actor_rollout_ref.model.lora.merge=True"),
        ],
    ],
)
def test_negatives_and_dpo_pass(config, overrides):
    made = config(ROLLBACK_ON, *overrides)
    preflight.prepare(made)
    preflight.check(made)


def test_dpo_on_other_engines_is_refused(config):
    made = config(ROLLBACK_ON, NEGATIVES, DPO)
    made.actor_rollout_ref.actor.strategy = "megatron"
    assert any("strategy=fsdp2 or fsdp, got megatron" in problem for problem in problems_of(made))


def test_dpo_is_for_text(config, monkeypatch):
    monkeypatch.setattr("verl.workers.config.model.hf_processor", lambda *_, **__: SimpleNamespace(chat_template="{}"))
    (problem,) = problems_of(config(ROLLBACK_ON, NEGATIVES, DPO))
    assert "use_dpo_on_tool_calls=True is for text only" in problem


@pytest.mark.parametrize("estimator", ["grpo", "rloo", "reinforce_plus_plus", "reinforce_plus_plus_baseline", "opo"])
@pytest.mark.parametrize("score", [ROUTER, f"+{MT}.rollback_failed_call_score=-1"], ids=["declared", "given"])
def test_leaves_pass(config, score, estimator):
    made = config(*LEAF, score, f"algorithm.adv_estimator={estimator}")
    preflight.prepare(made)
    preflight.check(made)


def test_leaves_warn_of_what_was_not_tried(config):
    made = config(*LEAF, ROUTER, "actor_rollout_ref.actor.fsdp_config.ulysses_sequence_parallel_size=2")
    made.actor_rollout_ref.actor.strategy = "megatron"
    found = [str(finding) for finding in findings(made, {"leaves": CONFIGURATION["leaves"]})]
    assert "leaf has only been tried with" in found[0]
    assert "leaf has not been tried with sequence parallelism" in found[1]


def test_leaves_are_for_text(config, monkeypatch):
    monkeypatch.setattr("verl.workers.config.model.hf_processor", lambda *_, **__: SimpleNamespace(chat_template="{}"))
    (problem,) = problems_of(config(*LEAF, ROUTER))
    assert "rollback_failed_calls=leaf is for text only" in problem


# On a Ray cluster that runs elsewhere.
GPU = ("+ray_kwargs.ray_init.address=auto", "trainer.n_gpus_per_node=1")


def test_the_gpu_config_passes_with_the_published_dtype(config):
    made = config(*FLAGS, *GPU, FP16, "actor_rollout_ref.actor.strategy=fsdp2", name="cleaner", by_hydra=True)
    preflight.prepare(made)
    preflight.check(made)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        # Typos behind a plus sign.
        ([f"+{MT}.max_tool_retrys=3"], [f"{MT}.max_tool_retrys", f"did you mean {MT}.max_tool_retries?"]),
        ([f"+{MT}.zzz=3"], [f"{MT}.zzz is unknown", "max_tool_retries"]),
        (["+algorithm.norm_adv_by_sdt_in_grpo=False"], ["did you mean algorithm.norm_adv_by_std_in_grpo?"]),
        (
            ["+algorithm.rollout_correction.rollout_iss=token"],
            ["did you mean algorithm.rollout_correction.rollout_is?"],
        ),
        (["+actor_rollout_ref.actor.clip_ratio_hihg=0.28"], ["did you mean actor_rollout_ref.actor.clip_ratio_high?"]),
        (["+actor_rollout_ref.actor.fsdp_config.mixed_precision.dtype=fp16"], ["mixed_precision.dtype is unknown"]),
        ([f"{MT}._target_=verl_cleaner.nowhere.Config"], [f"{MT}._target_=verl_cleaner.nowhere.Config cannot be"]),
        # Keys that VeRL accepts and ignores.
        (["custom_reward_function.path=reward.py"], ["write reward.custom_reward_function.path=reward.py"]),
        (["reward_model.reward_manager=dapo"], ["write reward.reward_manager.name=dapo"]),
        (["+reward_model.reward_kwargs.max_resp_len=9"], ["write reward.reward_kwargs.max_resp_len=9"]),
        (["reward_model.enable=True"], ["write reward.reward_model.enable=True"]),
        (["sandbox_fusion.url=http://x"], ["write reward.sandbox_fusion.url=http://x"]),
        (["trainer.use_v1=False"], ["trainer.use_v1=False", "expected True"]),
        (["trainer.v1.trainer_mode=sync"], ["trainer.v1.trainer_mode=sync", "expected cleaner"]),
        (["trainer.v1.trainer_mode=colocate_async"], ["expected cleaner_colocate_async"]),
        (["trainer.v1.trainer_mode=claner"], ["trainer.v1.trainer_mode=claner is unknown", "expected cleaner"]),
        (["+actor_rollout_ref.rollout.repetition_penalty=1.1"], ["repetition_penalty=1.1", "samples with 1.0"]),
        (["actor_rollout_ref.rollout.do_sample=False"], ["write actor_rollout_ref.rollout.temperature=0"]),
        # Bad values, all of them told.
        (
            [f"+{MT}.rollback_similarity_threshold=1.4", f"+{MT}.max_tool_retries=-1"],
            [
                f"{MT}.rollback_similarity_threshold must be in [0, 1], got 1.4; the default is 0.5",
                f"{MT}.max_tool_retries must be an integer >= 0, got -1; the default is 3",
            ],
        ),
        ([f"+{MT}.rollback_probability=often"], [f"{MT}.rollback_probability must be in [0, 1], got 'often'"]),
        ([f"+{MT}.enable_tool_rollback=yes"], ["enable_tool_rollback must be True or False, got 'yes'"]),
        ([f"+{MT}.rollback_similarity_on=code"], ["rollback_similarity_on must be one of arguments, call, got 'code'"]),
        ([f"+{MT}.rollback_on_errors=NameError"], ["rollback_on_errors must be null", "got 'NameError'"]),
        ([f"+{MT}.rollback_on_errors=[NameEror]"], ["NameEror is no failure kind; did you mean NameError?"]),
        # Combinations.
        ([ROLLBACK_ON, "algorithm.rollout_correction.rollout_is=token"], ["rollback_logprobs=recompute", "rollout_is"]),
        ([ROLLBACK_ON, "algorithm.rollout_correction.rollout_rs=seq_mean_k1"], ["recompute", "rollout_rs=seq_mean_k1"]),
        ([ROLLBACK_ON, "algorithm.rollout_correction.bypass_mode=True"], ["recompute", "bypass_mode=True"]),
        (
            [ROLLBACK_ON, "actor_rollout_ref.actor.policy_loss.loss_mode=bypass_mode"],
            ["recompute", "policy_loss.loss_mode=bypass_mode"],
        ),
        (
            [ROLLBACK_ON, f"{MT}.enable=False"],
            ["enable_tool_rollback=True needs tool calls", "multi_turn.enable=False"],
        ),
        # Tools, and what lost trajectories do.
        (
            [f"+{MT}.tool_contracts={{search:{{retries:3}}}}"],
            [f"{MT}.tool_contracts.search knows no 'retries'; expected idempotent"],
        ),
        ([f"+{MT}.tool_contracts=/no/contracts.yaml"], ["tool_contracts=/no/contracts.yaml: expected a YAML file"]),
        (["trainer.max_lost_share=2"], ["trainer.max_lost_share must be in [0, 1), got 2"]),
        # Leaves, and the penalty on failed calls.
        ([f"+{MT}.rollback_failed_calls=leaves"], ["rollback_failed_calls must be one of discard, leaf, got 'leaves'"]),
        ([LEAF[1], ROUTER], ["rollback_failed_calls=leaf needs enable_tool_rollback=True, got False", "a leaf is"]),
        ([*LEAF, ROUTER, f"+{MT}.rollback_mode=void"], ["rollback_failed_calls=leaf needs rollback_mode=overwrite"]),
        ([*LEAF], ["needs the score of a wrong answer", "VeRL chooses by data_source", "rollback_failed_call_score"]),
        ([f"+{MT}.rollback_failed_call_score=low"], ["rollback_failed_call_score must be a number or null, got 'low'"]),
        ([f"+{MT}.rollback_failed_call_weight=1"], ["rollback_failed_call_weight must be one of full, split, got 1"]),
        ([f"+{MT}.rollback_stratified=2"], ["rollback_stratified must be True or False, got 2"]),
        ([*LEAF, ROUTER, NEGATIVES, DPO], ["leaf cannot be combined with algorithm.use_dpo_on_tool_calls=True"]),
        ([*LEAF, ROUTER, "algorithm.adv_estimator=remax"], ["algorithm.adv_estimator=remax", "expected grpo, rloo"]),
        ([*LEAF, ROUTER, "algorithm.adv_estimator=grpo_passk"], ["only the best member", "expected grpo, rloo"]),
        (
            [*LEAF, ROUTER, "actor_rollout_ref.rollout.enable_rollout_routing_replay=True"],
            ["cannot be combined with actor_rollout_ref.rollout.enable_rollout_routing_replay=True"],
        ),
        (["+algorithm.failed_call_penalty=-1"], ["algorithm.failed_call_penalty must be a number >= 0, got -1"]),
        (["+algorithm.failed_call_penalti=1"], ["did you mean algorithm.failed_call_penalty?"]),
        (
            ["+algorithm.failed_call_penalty=1", f"{MT}.enable=False"],
            ["algorithm.failed_call_penalty=1 needs tool calls", "multi_turn.enable=False"],
        ),
        # Pairs of failed and repaired calls.
        ([NEGATIVES], ["save_negative_samples=True needs enable_tool_rollback=True, got False"]),
        ([ROLLBACK_ON, NEGATIVES, f"+{MT}.rollback_mode=keep"], ["needs rollback_mode=overwrite, got keep"]),
        ([f"+{MT}.max_negative_samples_per_group=-1"], ["max_negative_samples_per_group must be an integer >= 0"]),
        ([ROLLBACK_ON, DPO], ["use_dpo_on_tool_calls=True needs", f"{MT}.save_negative_samples=True, got False"]),
        (
            [ROLLBACK_ON, NEGATIVES, DPO, f"+{MT}.max_negative_samples_per_group=0"],
            [f"{MT}.max_negative_samples_per_group of at least 1, got 0"],
        ),
        (["+algorithm.use_dpo_on_tool_call=True"], ["did you mean algorithm.use_dpo_on_tool_calls?"]),
        (
            ["+algorithm.use_dpo_on_tool_calls=yes"],
            ["algorithm.use_dpo_on_tool_calls must be True or False, got 'yes'"],
        ),
        (["+algorithm.dpo_beta=0"], ["algorithm.dpo_beta must be a number > 0, got 0"]),
        (["+algorithm.dpo_beta=.inf"], ["algorithm.dpo_beta must be a number > 0"]),
        (["+algorithm.dpo_max_adjustment_ratio=1.5"], ["dpo_max_adjustment_ratio must be in (0, 1], got 1.5"]),
        (["+algorithm.dpo_reference=old"], ["algorithm.dpo_reference must be one of none, ref, got 'old'"]),
        (
            [ROLLBACK_ON, NEGATIVES, DPO, "+algorithm.dpo_reference=ref"],
            ["dpo_reference=ref needs a reference policy", "actor_rollout_ref.actor.use_kl_loss=True"],
        ),
        ([FP16], ["fsdp_config.dtype=float16", "mixed_precision.param_dtype=fp32", "disagree"]),
        (["actor_rollout_ref.actor.fsdp_config.dtype=fp8"], ["fsdp_config.dtype must be one of float16", "got fp8"]),
        (
            ["actor_rollout_ref.actor.strategy=fsdp"],
            ["trainer.device=cpu needs actor_rollout_ref.actor.strategy=fsdp2"],
        ),
        (
            ["+actor_rollout_ref.model.override_config.attn_implementation=varlen"],
            ["varlen needs a GPU, but trainer.device=cpu", "needs actor_rollout_ref.model.use_remove_padding=True"],
        ),
        (["actor_rollout_ref.rollout.name=vllm"], ["the package vllm is not installed"]),
        (
            ["actor_rollout_ref.rollout.name=sglang"],
            ["trainer.device=cpu needs actor_rollout_ref.rollout.name=cpu", "the package sglang is not installed"],
        ),
        (["trainer.device=cuda"], ["rollout.name=cpu needs trainer.device=cpu", "--config-name cleaner_cpu"]),
        (["actor_rollout_ref.model.lora_rank=8"], ["lora_rank=8 needs actor_rollout_ref.model.lora.merge=True"]),
        (["trainer.logger=[console,mlflow]"], ["trainer.logger names mlflow", "trainer.logger=[console]"]),
        # Inputs.
        (["data.train_files=/no/such.parquet"], ["data.train_files=/no/such.parquet: the file does not exist"]),
        (["data.train_batch_size=16"], ["data.train_files holds 8 rows", "data.train_batch_size=16"]),
        (["actor_rollout_ref.model.path=/no/model"], ["actor_rollout_ref.model.path=/no/model: the folder does not"]),
        ([f"{MT}.tool_config_path=/no/tools.yaml"], ["tool_config_path=/no/tools.yaml cannot be loaded"]),
        ([f"{MT}.format=hermez"], [f"{MT}.format=hermez is unknown, expected one of hermes"]),
        (["reward.custom_reward_function.path=/no/reward.py"], ["reward.custom_reward_function.path=/no/reward.py"]),
        (
            ["reward.custom_reward_function.path=pkg://verl_cleaner.reward.reasoning_gym"],
            ["the column extra_info.entry is missing"],
        ),
        # What only VeRL itself knows, still without a traceback.
        (["data.train_batch_size=3"], ["VeRL refuses the configuration", "3"]),
    ],
)
def test_refused(config, overrides, words):
    problems = problems_of(config(*overrides))
    for word in words:
        assert any(word in problem for problem in problems), problems
    for problem in problems:
        assert any(word in problem for word in words), problem
        assert problem.endswith("]")


def test_rescoring_that_would_not_be_exact(config):
    pytest.importorskip("verl_cleaner.rollout.rescore")
    rescore = f"+{MT}.rollback_logprobs=rescore"
    made = config(ROLLBACK_ON, rescore, "actor_rollout_ref.rollout.temperature=0.7")
    (problem,) = problems_of(made)
    assert f"{MT}.rollback_logprobs=rescore needs actor_rollout_ref.rollout.temperature=1, got 0.7" in problem
    made = config(ROLLBACK_ON, rescore, "algorithm.rollout_correction.rollout_is=token")
    preflight.prepare(made)
    preflight.check(made)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this host has a GPU")
def test_the_gpu_config_on_a_host_without_gpu(config):
    problems = problems_of(config("trainer.n_gpus_per_node=1", name="cleaner"))
    assert "torch sees no GPU here" in problems[0]
    assert "--config-name cleaner_cpu" in problems[0]


def test_what_ray_prepares_for_the_workers_is_checked_there(config, monkeypatch):
    """The driver has neither the package, nor the judge's address, nor a working directory's files."""
    monkeypatch.setattr(host, "find_spec", lambda name: None)
    lacking = ("trainer.logger=[console,swanlab]", f"{MT}.tool_config_path=tools.yaml")
    assert len(problems_of(config(*lacking))) == 2
    environment = "ray_kwargs.ray_init.runtime_env"
    for given in ("pip=[swanlab]", "working_dir=/project", "env_vars={CODE_JUDGE_URL:'http://judge:8088'}"):
        made = config(*lacking, f"+{environment}.{given}")
        preflight.prepare(made)
        preflight.check(made)
        assert len([one for one in findings(made, TRAINER_NODE) if one.level is Level.ERROR]) == 2
    made = config(*lacking, f"{environment}.py_executable=/our/forkserver")
    assert len(problems_of(made)) == 2


def test_vllm_on_cpu(config, monkeypatch):
    """Adapters work there, sleeping does not."""
    monkeypatch.setattr(host, "find_spec", lambda name: object())
    rollout = "actor_rollout_ref.rollout"
    made = config(f"{rollout}.name=vllm", "actor_rollout_ref.model.lora_rank=8", "++trainer.skip_checks=[verl]")
    preflight.prepare(made)
    preflight.check(made)
    sleeping = [f"{rollout}.enable_sleep_mode=True", f"{rollout}.free_cache_engine=True"]
    for problem, setting in zip(problems_of(config(f"{rollout}.name=vllm", *sleeping)), sleeping, strict=True):
        assert f"trainer.device=cpu needs {setting.replace('True', 'False')}, got True" in problem


def test_fsdp2_on_cpu_needs_a_newer_torch(config, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.7.1+cu126")
    (problem,) = problems_of(config())
    assert "trainer.device=cpu needs torch 2.8 or newer" in problem
    assert "got 2.7.1+cu126" in problem


def test_attention_over_packed_rows_needs_them(config, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    model, actor = "actor_rollout_ref.model", "actor_rollout_ref.actor"
    problems = problems_of(
        config(
            "trainer.n_gpus_per_node=2",
            f"+{model}.override_config.attn_implementation=varlen",
            f"{model}.use_remove_padding=False",
            f"{actor}.ulysses_sequence_parallel_size=2",
            f"{actor}.fsdp_config.ulysses_sequence_parallel_size=4",
            name="cleaner",
        )
    )
    assert any("varlen needs actor_rollout_ref.model.use_remove_padding=True, got False" in one for one in problems)
    for path, size in ("", 2), ("fsdp_config.", 4):
        message = f"varlen needs {actor}.{path}ulysses_sequence_parallel_size=1, got {size}"
        assert any(message in one for one in problems)


@pytest.mark.parametrize("name", ["sdpa", "eager", "flex_attention"])
def test_sequence_parallelism_needs_flash_attention(config, monkeypatch, name):
    """VeRL exchanges the slices in flash-attn only."""
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    implementation = "+actor_rollout_ref.model.override_config.attn_implementation"
    split = "actor_rollout_ref.ref.fsdp_config.ulysses_sequence_parallel_size=2"
    (problem,) = problems_of(config(f"{implementation}={name}", split, "trainer.n_gpus_per_node=2", name="cleaner"))
    assert f"{name} needs actor_rollout_ref.ref.fsdp_config.ulysses_sequence_parallel_size=1, got 2" in problem
    for other in ("flash_attention_2", "flash_attention_3", "a_users_own"):
        made = config(f"{implementation}={other}", split, "trainer.n_gpus_per_node=2", name="cleaner")
        assert not any("sequence_parallel" in str(finding) for finding in findings(made, CONFIGURATION))


def test_flash_attention_that_is_not_installed(config, monkeypatch):
    only = {"flash_attention": checks.TRAINER_NODE["flash_attention"]}
    monkeypatch.setattr(attention, "_flash_attn", lambda: False)
    (finding,) = checks.findings(config(name="cleaner"), only)
    assert finding.level is Level.WARNING
    assert "attn_implementation=varlen" in finding.text
    sdpa = "+actor_rollout_ref.model.override_config.attn_implementation=sdpa"
    assert checks.findings(config(sdpa, name="cleaner"), only) == checks.findings(config(), only) == []
    monkeypatch.setattr(attention, "_flash_attn", lambda: True)
    assert checks.findings(config(name="cleaner"), only) == []


ADAPTER = ("actor_rollout_ref.rollout.name=sglang", "actor_rollout_ref.model.lora_rank=8")
MERGED = "actor_rollout_ref.model.lora.merge=True"
SGLANG_LORA = {"sglang_lora": checks.TRAINER_NODE["sglang_lora"]}


@pytest.fixture
def sglang(monkeypatch, tmp_path):
    """Installs an SGLang whose request for an adapter has these fields."""
    monkeypatch.delitem(sys.modules, "sglang", raising=False)
    return lambda *fields: monkeypatch.syspath_prepend(tiny_sglang(tmp_path, *fields).parent)


@pytest.mark.parametrize("rank", ["actor_rollout_ref.model.lora_rank=8", "actor_rollout_ref.model.lora.rank=8"])
def test_an_adapter_that_sglang_does_not_take(config, sglang, rank):
    sglang("serialized_tensors")
    made = config(ADAPTER[0], rank, name="cleaner")
    (finding,) = findings(made, SGLANG_LORA)
    assert finding.level is Level.ERROR
    for word in (
        f"{rank} with actor_rollout_ref.rollout.name=sglang needs {MERGED}, got False",
        "VeRL sends an adapter with serialized_named_tensors, but the installed SGLang knows only",
        "lora_name, pinned, rid, serialized_tensors, so",
        "or actor_rollout_ref.rollout.name=vllm",
    ):
        assert word in finding.text
    for other in (MERGED, "actor_rollout_ref.rollout.name=vllm", rank.replace("8", "0")):
        assert findings(config(ADAPTER[0], rank, other, name="cleaner"), SGLANG_LORA) == []


def test_an_adapter_that_sglang_takes(config, sglang):
    sglang("serialized_named_tensors")
    assert findings(config(*ADAPTER, name="cleaner"), SGLANG_LORA) == []


def test_an_adapter_for_an_sglang_of_another_kind(config, sglang, tmp_path):
    """Nothing is refused that could not be read."""
    sglang()
    (tmp_path / "sglang/srt/managers/io_struct.py").write_text("from elsewhere import *\n")
    (finding,) = findings(config(*ADAPTER, name="cleaner"), SGLANG_LORA)
    assert finding.level is Level.WARNING
    assert "could not be made" in finding.text


def test_an_adapter_where_sglang_is_not_installed(config, monkeypatch):
    stock = lora._folder
    monkeypatch.setattr(lora, "_folder", lambda name: None if name == "sglang" else stock(name))
    (finding,) = findings(config(*ADAPTER, name="cleaner"), SGLANG_LORA)
    assert finding.level is Level.WARNING
    assert "SGLang 0.5.12 and 0.5.14 do not take an adapter as VeRL 0.9.1 sends it" in finding.text
    assert f"write {MERGED}" in finding.text
    assert findings(config(*ADAPTER, MERGED, name="cleaner"), SGLANG_LORA) == []


SEPARATE = "trainer.v1.trainer_mode=cleaner_separate_async"
MEGATRON = "actor_rollout_ref.actor.strategy=megatron"
LORA = "actor_rollout_ref.model.lora"


@pytest.mark.parametrize(
    ("overrides", "problems"),
    [
        ([f"{LORA}_rank=8"], []),
        ([f"{LORA}_rank=8", f"{LORA}_adapter_path=/a"], []),
        # The engines serve the larger of the two ranks.
        ([f"{LORA}_rank=8", f"{LORA}.rank=16"], []),
        ([MEGATRON, f"{LORA}.rank=8", f"{LORA}.adapter_path=/a"], []),
        (["actor_rollout_ref.actor.strategy=veomni", f"{LORA}.rank=8"], []),
        ([f"{LORA}.rank=8"], [f"{LORA}.rank=8 is not read with actor_rollout_ref.actor.strategy=fsdp2"]),
        ([f"{LORA}_rank=8", f"{LORA}.adapter_path=/a"], [f"write {LORA}_adapter_path=/a"]),
        ([f"{LORA}_adapter_path=/a"], [f"{LORA}_adapter_path=/a needs {LORA}_rank, the rank of this adapter, got 0"]),
        ([MEGATRON, f"{LORA}_rank=8"], [f"{LORA}_rank=8 is not read", f"write {LORA}.rank=8"]),
        ([MEGATRON, f"{LORA}.adapter_path=/a"], [f"{LORA}.adapter_path=/a needs {LORA}.rank"]),
        ([SEPARATE, f"{LORA}_rank=8"], [f"{LORA}_rank=8 needs {MERGED} with {SEPARATE}, got False"]),
        ([SEPARATE, MEGATRON, f"{LORA}.rank=8"], [f"{LORA}.rank=8 needs {MERGED} with {SEPARATE}"]),
        ([SEPARATE, f"{LORA}_rank=8", MERGED], []),
        (["trainer.v1.trainer_mode=cleaner_colocate_async", f"{LORA}_rank=8"], []),
    ],
)
def test_lora_that_is_not_trained_or_not_sent(config, overrides, problems):
    made = config(*overrides)
    found = findings(made, {"lora": CONFIGURATION["lora"]})
    assert all(finding.level is Level.ERROR for finding in found)
    assert len(found) == min(len(problems), 1), found
    assert all(word in found[0].text for word in problems), found


def test_an_engine_that_is_not_installed(config, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(host, "find_spec", lambda name: None if name == "vllm" else importlib.util.find_spec(name))
    (problem,) = problems_of(config("trainer.n_gpus_per_node=1", "actor_rollout_ref.rollout.name=vllm", name="cleaner"))
    assert "actor_rollout_ref.rollout.name=vllm, but the package vllm is not installed" in problem


def test_several_files(config, folder):
    file = folder / "data.parquet"
    made = config(
        f"data.train_files=[{file},{file}]", "data.train_batch_size=16", f"data.val_files=[{file},/no.parquet]"
    )
    assert [problem.split(":")[0] for problem in problems_of(made)] == ["data.val_files=/no.parquet"]


def test_everything_wrong_is_told_at_once(config):
    made = config("data.val_files=/no/val.parquet", f"+{MT}.max_tool_retrys=1", "reward_model.reward_manager=dapo")
    problems = problems_of(made)
    assert len(problems) == 3


# ---- errors and warnings, and how to switch them off -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        # A key that may be an estimator's own.
        (["algorithm.group_baseline=median"], "algorithm.group_baseline is not read by VeRL, only by code of your own"),
        (
            [
                *("algorithm.adv_estimator=mine", "algorithm.norm_adv_by_std=False"),
                "actor_rollout_ref.model.external_lib=json",
            ],
            "did you mean algorithm.norm_adv_by_std",
        ),
        ([f"{MT}.max_parallel_calls=1", ROLLBACK_ON], "further calls of a turn are left out"),
        ([f"{MT}.max_tool_response_length=256", ROLLBACK_ON], "see a longer error only in part"),
        (
            [f"{MT}.format=mine", "actor_rollout_ref.rollout.agent.agent_loop_config_path=mine.yaml"],
            "agent loop registers",
        ),
        (
            [
                *(ROLLBACK_ON, NEGATIVES, DPO, "actor_rollout_ref.actor.ulysses_sequence_parallel_size=2"),
                "actor_rollout_ref.model.override_config.attn_implementation=flash_attention_2",
                *("actor_rollout_ref.model.use_remove_padding=True", "trainer.n_gpus_per_node=2"),
                "ray_kwargs.ray_init.num_gpus=2",
            ],
            "has not been tried with sequence parallelism",
        ),
        (
            [f"{AGENT}.agent_loop_manager_class=verl.trainer.ppo.v1.AgentLoopManagerTQ"],
            "trajectories that are lost vanish unnoticed",
        ),
        ([ROLLBACK_ON, f"+{MT}.rollback_failed_call_weight=full"], "rollback_failed_call_weight=full does nothing"),
        ([ROLLBACK_ON, f"+{MT}.rollback_failed_call_weight=split"], "rollback_failed_call_weight=split does nothing"),
        ([ROLLBACK_ON, f"+{MT}.rollback_failed_call_score=-1"], "rollback_failed_call_score=-1 does nothing without"),
    ],
)
def test_what_may_be_meant_so_is_a_warning(config, overrides, words):
    warnings = warnings_of(config("++trainer.skip_checks=[verl]", *overrides))
    assert any(words in warning for warning in warnings), warnings


def test_warnings_are_logged(config, caplog):
    made = config(ROLLBACK_ON, f"{MT}.max_parallel_calls=1")
    preflight.prepare(made)
    with caplog.at_level(logging.WARNING):
        preflight.check(made)
    assert "max_parallel_calls=1" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["data.val_files=/no/val.parquet"], ["data_files"]),
        (["data.train_batch_size=16"], ["data_rows", "verl"]),
        (["actor_rollout_ref.model.path=/no/model"], ["model"]),
        (["trainer.logger=[console,mlflow]"], ["loggers"]),
        ([f"{MT}.tool_config_path=/no/tools.yaml"], ["tools"]),
        ([f"{MT}.rollback_probability=2"], ["rollback_values", "verl"]),
        (["reward_model.reward_manager=dapo"], ["moved_keys"]),
        (["trainer.v1.trainer_mode=sync"], ["trainer_mode"]),
        ([ROLLBACK_ON, "algorithm.rollout_correction.rollout_is=token"], ["rollback_logprobs"]),
    ],
)
def test_every_check_can_be_switched_off_by_its_name(config, overrides, names):
    problems = problems_of(config(*overrides))
    assert any(problem.endswith(f"[{names[0]}]") for problem in problems), problems
    made = config(*overrides, f"trainer.skip_checks=[{','.join(names)}]")
    preflight.prepare(made)
    preflight.check(made)


def test_a_check_that_there_is_not(config):
    (problem,) = problems_of(config("trainer.skip_checks=[jugde]"))
    assert "there is no check jugde; did you mean judge?" in problem


def test_a_check_that_breaks_refuses_nothing(config, monkeypatch):
    def broken(_):
        raise KeyError("x")
        yield

    monkeypatch.setattr(checks, "CONFIGURATION", {"broken": broken})
    (finding,) = findings(config(), checks.CONFIGURATION)
    assert (finding.level, finding.check) == (Level.WARNING, "broken")
    assert "could not be made: KeyError" in finding.text


def test_the_error_survives_the_way_from_the_trainer_to_the_driver():
    error = pickle.loads(pickle.dumps(preflight.PreflightError(["a [x]", "b [y]"])))
    assert error.problems == ["a [x]", "b [y]"]
    assert "2 problems before the start" in str(error)
    assert "trainer.skip_checks" in str(error)


def test_tools_and_rewards_are_not_run_by_the_checks(config, tmp_path, monkeypatch):
    """They belong to workers, perhaps on other nodes."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "explosive.py").write_text(
        "raise SystemExit('run')\ndef compute_score(*_): return 0\nclass Tool: ...\n"
    )
    (tmp_path / "tools.yaml").write_text("tools: [{class_name: explosive.Tool, config: {}, tool_schema: {}}]")
    made = config(
        f"{MT}.tool_config_path={tmp_path / 'tools.yaml'}",
        f"reward.custom_reward_function.path={tmp_path / 'explosive.py'}",
    )
    assert warnings_of(made) == []


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"question": "1+1?", "data_source": "x"}], ["column prompt is missing", "column reward_model.ground_truth"]),
        (
            [{"prompts": [], "data_source": "x", "reward_model": {"ground_truth": "1"}}],
            ["prompt is missing", "prompts?"],
        ),
        (
            [{"prompt": [{"role": "user", "content": "?"}], "data_source": "x", "reward_model": '{"ground_truth": 1}'}],
            ["reward_model.ground_truth is missing"],
        ),
        ([], ["has no rows"]),
    ],
)
def test_columns(config, tmp_path, rows, words):
    file = tmp_path / "bad.parquet"
    pd.DataFrame(rows).to_parquet(file)
    problems = problems_of(config(f"data.val_files={file}"))
    for word in words:
        assert any(word in problem and f"data.val_files={file}" in problem for problem in problems), problems


def test_rows_that_nothing_would_repair(config, folder, tmp_path):
    rows = pd.read_parquet(folder / "data.parquet")
    rows["agent_name"] = ["tool_agent", "single_turn_agent"] * (len(rows) // 2)
    rows.to_parquet(tmp_path / "mixed.parquet")
    mixed = [ROLLBACK_ON, f"data.train_files={tmp_path / 'mixed.parquet'}"]
    (problem,) = problems_of(config(*mixed))
    assert "some rows run in the agent loop single_turn_agent" in problem
    allowed = config(*mixed, f"+{MT}.rollback_other_loops=allow")
    preflight.prepare(allowed)
    preflight.check(allowed)


def test_a_file_that_is_no_parquet(config, tmp_path):
    (tmp_path / "text.parquet").write_text("not parquet")
    assert "is not a readable parquet file" in problems_of(config(f"data.val_files={tmp_path / 'text.parquet'}"))[0]


def test_a_tokenizer_without_tool_call_tokens(config, tmp_path):
    from transformers import AutoTokenizer

    model = tiny_model(tmp_path / "model")
    content = json.loads((model / "tokenizer.json").read_text())
    content["added_tokens"] = [token for token in content["added_tokens"] if "tool_call" not in token["content"]]
    (model / "tokenizer.json").write_text(json.dumps(content))
    for name in ("tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"):
        file = model / name
        if file.exists():
            settings = json.loads(file.read_text())
            settings.pop("added_tokens_decoder", None)
            file.write_text(json.dumps(settings))
    assert len(AutoTokenizer.from_pretrained(model).encode("<tool_call>", add_special_tokens=False)) > 1
    (warning,) = warnings_of(config(f"actor_rollout_ref.model.path={model}"))
    assert str(model) in warning
    assert "has no tool-call tokens" in warning


def test_a_folder_that_is_no_model(config, tmp_path):
    assert "holds no config.json" in problems_of(config(f"actor_rollout_ref.model.path={tmp_path}"))[0]


def test_the_judge_is_asked(config, monkeypatch):
    monkeypatch.setenv("CODE_JUDGE_URL", "http://127.0.0.1:1")
    (problem,) = problems_of(config())
    assert "code-judge at http://127.0.0.1:1 did not answer" in problem
    assert "code-judge serve" in problem


def test_the_judge_is_not_needed_without_its_tool(config, monkeypatch):
    monkeypatch.setenv("CODE_JUDGE_URL", "http://127.0.0.1:1")
    made = config(f"{MT}.enable=False")
    preflight.prepare(made)
    preflight.check(made)
    assert made.actor_rollout_ref.rollout.agent.default_agent_loop == "single_turn_agent"


def test_published_dtype_reaches_the_engine(config, monkeypatch, caplog):
    from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler
    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.engine.fsdp import transformer_impl

    class Enough(Exception):
        """The dtype is chosen before the first thing that needs a process group."""

    def stop(**_):
        raise Enough

    made = config(FP16, *GPU, name="cleaner")
    with caplog.at_level(logging.INFO):
        preflight.prepare(made)
    assert "dtype=float16, so mixed_precision.param_dtype=fp16" in caplog.text
    engine = object.__new__(transformer_impl.FSDPEngine)
    engine.engine_config = omega_conf_to_dataclass(made.actor_rollout_ref.actor.fsdp_config)
    monkeypatch.setattr(transformer_impl, "get_fsdp_wrap_policy", stop)
    engine.model_config = type("Model", (), {"lora_rank": 0})
    monkeypatch.setattr(torch.distributed, "get_rank", lambda *args: 0)
    monkeypatch.setattr(ShardedGradScaler, "__init__", lambda self, **kwargs: None)
    with pytest.raises(Enough):
        engine._build_fsdp_module(torch.nn.Linear(1, 1))
    assert engine._autocast_dtype is torch.float16
    assert isinstance(engine.scaler, ShardedGradScaler)


def test_stock_dtype_changes_nothing(config):
    made = config(*GPU, name="cleaner")
    preflight.prepare(made)
    assert "mixed_precision" not in made.actor_rollout_ref.actor.fsdp_config


# ---- the plug-in is loaded -------------------------------------------------------------------------------------------


def test_loaded_here():
    assert list(loaded.plugin(None)) == []


def test_entry_point_missing(monkeypatch):
    monkeypatch.setattr(loaded, "entry_points", lambda group: [])
    (problem,) = map(str, loaded.plugin(None))
    assert "the entry point cleaner" in problem
    assert "install the package verl-cleaner" in problem


def test_entry_point_failing(monkeypatch):
    broken = importlib.metadata.EntryPoint("cleaner", "verl_cleaner.no_such_module", "verl.plugins")
    monkeypatch.setattr(loaded, "entry_points", lambda group: [broken])
    (problem,) = map(str, loaded.plugin(None))
    assert "fails to load: ModuleNotFoundError" in problem


def test_plugins_switched_off(monkeypatch):
    monkeypatch.setenv("VERL_USE_EXTERNAL_PLUGINS", "none")
    (problem,) = map(str, loaded.plugin(None))
    assert "VERL_USE_EXTERNAL_PLUGINS=none" in problem


def test_names_not_registered(monkeypatch):
    from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY

    monkeypatch.delitem(TRAINER_REGISTRY, "cleaner")
    (problem,) = map(str, loaded.plugin(None))
    assert "the trainer cleaner is not registered" in problem
