"""The files in deploy/: what they set and call is there."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from code_judge.api import create_app
from code_judge.settings import Settings

DEPLOY = Path(__file__).parents[1] / "deploy"
OBJECTS = [*yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())]
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SCALING = yaml.safe_load((DEPLOY / "autoscaling.yaml").read_text())


def containers() -> Iterator[tuple[str, dict[str, Any], dict[str, str], list[str]]]:
    """Name, definition, environment and command of each of ours."""
    for name, service in COMPOSE["services"].items():
        if name != "redis":
            yield name, service, service["environment"], service["command"]
    for item in OBJECTS:
        if item["kind"] == "Deployment":
            (one,) = item["spec"]["template"]["spec"]["containers"]
            yield one["name"], one, {entry["name"]: entry.get("value", "") for entry in one["env"]}, one["command"]


def named(kind: str, name: str) -> dict[str, Any]:
    (found,) = (item for item in OBJECTS if (item["kind"], item["metadata"]["name"]) == (kind, name))
    return found


@pytest.mark.parametrize("place", range(4))
def test_environment_and_command_are_ours(place: int) -> None:
    name, _, environment, command = list(containers())[place]
    known = {field.upper() for field in Settings.model_fields}
    assert set(environment) <= known
    fitting = {key.lower(): value for key, value in environment.items() if value and not value.startswith("$")}
    settings = Settings(**fitting)
    assert settings.redis_uri is not None
    if name == "api":
        assert command[:2] == ["uvicorn", "app.main:app"]
        assert settings.run_workers == 0
    else:
        assert command == ["code-judge", "workers"]
        assert settings.code_judge_require_isolation == "full"
        # Time to end what runs before the container is killed.
        assert settings.drain_time >= settings.max_execution_time


def test_there_is_time_to_drain_and_the_right_to_isolate() -> None:
    compose = COMPOSE["services"]["workers"]
    assert compose["cap_add"] == ["SYS_ADMIN"]
    assert int(compose["stop_grace_period"].removesuffix("s")) > float(compose["environment"]["DRAIN_TIME"])
    pod = named("Deployment", "code-judge-workers")["spec"]["template"]["spec"]
    (one,) = pod["containers"]
    assert one["securityContext"]["capabilities"] == {"add": ["SYS_ADMIN"]}
    environment = {entry["name"]: entry["value"] for entry in one["env"]}
    assert pod["terminationGracePeriodSeconds"] > float(environment["DRAIN_TIME"])


def test_probes_ports_and_names_lead_somewhere() -> None:
    routes = create_app(Settings()).routes
    api = named("Deployment", "code-judge-api")["spec"]["template"]
    (one,) = api["spec"]["containers"]
    port = one["ports"][0]["containerPort"]
    for probe, path in (("readinessProbe", "/ready"), ("livenessProbe", "/ping")):
        assert one[probe]["httpGet"] == {"path": path, "port": port}
        assert routes.find("GET", path)[0] is not None
    assert str(port) in one["command"]
    for name, service in (
        ("code-judge", api),
        ("code-judge-redis", named("StatefulSet", "code-judge-redis")["spec"]["template"]),
    ):
        selector = named("Service", name)["spec"]["selector"]
        assert selector.items() <= service["metadata"]["labels"].items()
    for _, _, environment, _ in containers():
        host = re.fullmatch(r"redis://([\w-]+):6379", environment["REDIS_URI"])
        assert host is not None
        assert host[1] in (
            *COMPOSE["services"],
            *(item["metadata"]["name"] for item in OBJECTS if item["kind"] == "Service"),
        )
    assert "/ready" in " ".join(COMPOSE["services"]["api"]["healthcheck"]["test"])


async def test_the_autoscaler_reads_the_length_of_the_queue() -> None:
    target = SCALING["spec"]["scaleTargetRef"]["name"]
    assert named("Deployment", target)
    (trigger,) = SCALING["spec"]["triggers"]
    host, port, path = re.fullmatch(
        r"http://([\w-]+)\.code-judge\.svc:(\d+)(/\w+)", trigger["metadata"]["url"]
    ).groups()
    assert named("Service", host)["spec"]["ports"][0]["port"] == int(port)
    assert path == "/status"
    assert trigger["metadata"]["valueLocation"] == "queue"


def test_the_image_has_what_the_commands_need() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    root = DEPLOY.parents[1]
    for copied in re.findall(r"^COPY (\S+) ", text, re.MULTILINE):
        assert (root / copied).exists()
    assert "g++" in text
    assert "./code-judge[science]" in text
    assert (root / COMPOSE["services"]["api"]["build"]["dockerfile"]) == DEPLOY / "Dockerfile"
