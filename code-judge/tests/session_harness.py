"""A session as its users drive it: over HTTP."""

from dataclasses import dataclass
from typing import Any

from judge_harness import Judge


@dataclass
class Session:
    judge: Judge
    id: str

    def run(self, code: str, **more: Any) -> dict[str, Any]:
        return self.judge.post(f"/session/{self.id}/run", code=code, **more)

    def value(self, code: str) -> str:
        """What a cell that must succeed prints."""
        result = self.run(code)
        assert result["success"], result
        return result["stdout"].strip()

    def call(self, action: str, **body: Any) -> Any:
        return self.judge.post(f"/session/{self.id}/{action}", **body)

    def trouble(self, method: str = "GET", action: str = "", **body: Any) -> tuple[int, dict[str, Any]]:
        """Status and detail of a call that is refused."""
        path = f"/session/{self.id}" + (f"/{action}" if action else "")
        reply = self.judge.http.request(method, path, json=body or None)
        assert reply.status_code != 200, reply.text
        return reply.status_code, reply.json()["detail"]

    def branch(self, **body: Any) -> "Session":
        return Session(self.judge, self.call("branch", **body)["session"])

    def delete(self) -> None:
        assert self.judge.http.delete(f"/session/{self.id}").status_code == 200


def open_session(judge: Judge, **body: Any) -> Session:
    reply = judge.http.post("/session", json=body)
    if reply.status_code == 501:
        import pytest

        pytest.skip(f"this host has no sessions: {reply.text}")
    assert reply.status_code == 200, reply.text
    return Session(judge, reply.json()["session"])
