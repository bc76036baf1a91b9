"""The checks of each node of a cluster: plug-in, tools, judge, rollout engine and its adapters.

Agent loops and engines run on all nodes, the trainer on one of them. The checks of a node run on it as a Ray task.
"""

from dataclasses import replace
from typing import Any

import ray
from omegaconf import DictConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from verl_cleaner.preflight.checks import EVERY_NODE, findings
from verl_cleaner.preflight.finding import Finding, error, warning

_SECONDS = 120
"""Seconds that the nodes may take; most of it is `import verl`."""


def findings_elsewhere(config: DictConfig) -> list[Finding]:
    """Findings of all other nodes; each names its node. None without a cluster."""
    if not ray.is_initialized():
        return []
    here = ray.get_runtime_context().get_node_id()
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    others = [node for node in nodes if node != here]
    if not others:
        return []
    task = ray.remote(num_cpus=0)(_findings_here)
    replies = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(config)
        for node in others
    ]
    # One deadline for all nodes: each of many that do not answer would cost its own.
    ready, _ = ray.wait(replies, num_returns=len(replies), timeout=_SECONDS)
    silent = replace(warning(f"did not answer in {_SECONDS} s and was not checked"), check="plugin")
    found = []
    for node, reply in zip(others, replies, strict=True):
        answer = _answer(reply) if reply in ready else [silent]
        found += [replace(finding, text=f"node {nodes[node]}: {finding.text}") for finding in answer]
    return found


def _answer(reply: Any) -> list[Finding]:
    try:
        return list(ray.get(reply))
    except ray.exceptions.RayError as failure:
        last = str(failure).strip().splitlines()[-1]
        return [replace(error(f"cannot run this plug-in: {last}; install verl-cleaner on it"), check="plugin")]


def _findings_here(config: DictConfig) -> list[Finding]:
    return findings(config, EVERY_NODE)
