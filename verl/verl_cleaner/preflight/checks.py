"""All checks by name, and where each of them runs.

CONFIGURATION   reads only the configuration; runs on the driver under `verl_cleaner.main_ppo`, and in the trainer
TRAINER_NODE    reads files and packages, so it runs where the trainer runs
EVERY_NODE      those of both that can have another result on each node of a cluster

A name in `trainer.skip_checks` switches its check off: `++trainer.skip_checks=[judge,data_columns]`.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from omegaconf import DictConfig

from verl_cleaner.preflight import (
    attention,
    batches,
    data,
    failed_calls,
    host,
    keys,
    late,
    loaded,
    lora,
    model,
    reward,
    tools,
    values,
)
from verl_cleaner.preflight.finding import Finding, Level, error, warning
from verl_cleaner.preflight.names import nearest

logger = logging.getLogger(__name__)

Check = Callable[[DictConfig], Iterator[Finding]]

CONFIGURATION: Mapping[str, Check] = {
    "moved_keys": keys.moved,
    "unread_keys": keys.unread,
    "unknown_keys": keys.unknown,
    "agent_loop_manager": keys.manager,
    "rollback_values": values.rollback_values,
    "failure_kinds": values.failure_kinds,
    "lost_groups": values.lost_groups,
    "rollback_logprobs": values.rollback_logprobs,
    "tool_limits": values.tool_limits,
    "dtype": values.dtypes,
    "attention": attention.attention,
    "lora": lora.lora,
    "cpu": values.cpu,
    "metrics_address": values.metrics_address,
    "processes": batches.processes,
    "batch_sizes": batches.batch_sizes,
    "separate_async": late.separate_async,
    "sampler": late.sampler,
    "rollout_correction": late.rollout_correction,
    "verl_names": late.verl_names,
    "pairs": failed_calls.pairs,
    "leaves": failed_calls.leaves,
    "failed_call_penalty": failed_calls.penalty,
}
TRAINER_NODE: Mapping[str, Check] = {
    "plugin": loaded.plugin,
    "data_files": data.files,
    "data_columns": data.columns,
    "data_rows": data.rows,
    "reward_function": reward.function,
    "leaf_score": failed_calls.leaf_score,
    "tool_calls": tools.tool_calls,
    "tool_contracts": tools.contracts,
    "tools": tools.tools,
    "judge": tools.judge,
    "model": model.model,
    "tool_format": model.tool_format,
    "log_prob_rows": batches.log_prob_rows,
    "gpu": host.gpu,
    "gpus": late.gpus,
    "checkpoint_engine": late.checkpoint_engine,
    "resume": late.resume,
    "classes": late.classes,
    "engine": host.engine,
    "sglang_lora": lora.sglang_lora,
    "flash_attention": attention.flash_attention,
    "loggers": host.loggers,
    "verl": values.verl,
}
EVERY_NODE: Mapping[str, Check] = {
    name: TRAINER_NODE[name] for name in ("plugin", "tools", "judge", "engine", "sglang_lora")
}
NAMES = (*CONFIGURATION, *TRAINER_NODE, "trainer_mode", "main", "platform")


def findings(config: DictConfig, checks: Mapping[str, Check]) -> list[Finding]:
    skipped = list(_skipped(config))
    found = [replace(finding, check="skip_checks") for finding in _unknown(skipped)]
    for name, check in checks.items():
        # Another check says the same in better words.
        if name in skipped or (name == "verl" and any(finding.level is Level.ERROR for finding in found)):
            continue
        try:
            found += [replace(finding, check=name) for finding in check(config)]
        except Exception as failure:
            logger.debug("check %s", name, exc_info=True)
            problem = f"this check could not be made: {type(failure).__name__}: {failure}"
            found.append(replace(warning(problem), check=name))
    return found


def _skipped(config: DictConfig) -> Iterable[str]:
    names = config.trainer.get("skip_checks") or ()
    return [names] if isinstance(names, str) else map(str, names)


def _unknown(skipped: Iterable[str]) -> Iterator[Finding]:
    for name in skipped:
        if name not in NAMES:
            near = nearest(name, NAMES)
            yield error(
                f"trainer.skip_checks: there is no check {name}; "
                + (f"did you mean {near}?" if near else f"expected some of {', '.join(NAMES)}")
            )
