"""The other nodes of a cluster are asked, on a real Ray cluster of two on this host."""

from types import SimpleNamespace

import pytest
import ray
from composing import changed, composed
from ray.cluster_utils import Cluster

from verl_cleaner.preflight import nodes
from verl_cleaner.preflight.finding import Level


@pytest.fixture(scope="module")
def two_nodes():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def config(*overrides):
    return changed(composed("cleaner_cpu"), overrides)


def test_a_node_answers_for_itself(two_nodes, tmp_path):
    tools = "actor_rollout_ref.rollout.multi_turn.tool_config_path"
    agent = "actor_rollout_ref.rollout.agent.default_agent_loop=tool_agent"
    (finding,) = nodes.findings_elsewhere(config(agent, f"{tools}=/no/tools.yaml"))
    assert (finding.level, finding.check) == (Level.ERROR, "tools")
    assert finding.text.startswith("node ")
    assert "tool_config_path=/no/tools.yaml" in finding.text
    assert nodes.findings_elsewhere(config(agent)) == []


def test_a_node_that_cannot_answer(two_nodes, monkeypatch):
    def not_there(_):
        raise ModuleNotFoundError("No module named 'verl_cleaner'")

    monkeypatch.setattr(nodes, "_findings_here", not_there)
    (finding,) = nodes.findings_elsewhere(config())
    assert (finding.level, finding.check) == (Level.ERROR, "plugin")
    assert "cannot run this plug-in: ModuleNotFoundError: No module named 'verl_cleaner'" in finding.text


def test_all_nodes_share_one_deadline(monkeypatch):
    """Many that do not answer cost no more than one."""
    waits = []

    def wait(refs, num_returns, timeout):
        waits.append((len(refs), num_returns, timeout))
        return [], refs

    task = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda _: object()))
    cluster = [{"NodeID": f"{i:056x}", "NodeManagerAddress": f"10.0.0.{i}", "Alive": True} for i in range(4)]
    fakes = {
        "is_initialized": lambda: True,
        "get_runtime_context": lambda: SimpleNamespace(get_node_id=lambda: "0" * 56),
        "nodes": lambda: cluster,
        "remote": lambda **_: lambda _: task,
        "wait": wait,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(ray, name, fake)
    found = nodes.findings_elsewhere(config())
    assert waits == [(3, 3, nodes._SECONDS)]
    assert [(finding.level, finding.text.split(":")[0]) for finding in found] == [
        (Level.WARNING, f"node 10.0.0.{i}") for i in (1, 2, 3)
    ]
