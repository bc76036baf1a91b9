"""C++ submissions: compiled and run in the sandbox."""

import shutil
from typing import Any

import pytest
from judge_harness import Judge, judge

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
SUM = "#include <iostream>\nint main() { long a, b; std::cin >> a >> b; std::cout << a + b << '\\n'; }"


def run(served: Judge, solution: str, **more: Any) -> dict[str, Any]:
    return served.post("/run", type="cpp", solution=solution, **more)


def test_compiles_and_runs(served: Judge) -> None:
    result = run(served, SUM, input="2 40", expected_output="42")
    assert (result["success"], result["stdout"], result["reason"]) == (True, "42\n", "")
    assert run(served, SUM, input="2 40", expected_output="41")["success"] is False


def test_a_compile_error_is_a_verdict(served: Judge) -> None:
    result = run(served, "int main() { return x; }")
    assert (result["run_success"], result["reason"], result["kind"]) == (False, "", "compile_error")
    assert "main.cpp:1" in result["stderr"]


@pytest.mark.parametrize(
    ("body", "kind"),
    [("return 3;", "nonzero_exit"), ("__builtin_trap();", "nonzero_exit"), ("for (;;) {}", "timeout")],
)
def test_ways_to_end(served: Judge, body: str, kind: str) -> None:
    result = run(served, f"int main() {{ {body} }}")
    assert (result["run_success"], result["kind"]) == (False, kind)
    assert result["reason"] == ("worker_timeout" if kind == "timeout" else "")


def test_memory_is_limited(served: Judge) -> None:
    result = run(served, "#include <vector>\nint main() { std::vector<char> v(1ull << 31, 1); return v[5] != 1; }")
    assert result["run_success"] is False


@pytest.mark.parametrize("path", ["/etc/shadow", "/root/.bashrc", "/etc/hostname"])
def test_the_compiler_shows_no_file_of_the_host(served: Judge, path: str) -> None:
    result = run(served, f'#include "{path}"\nint main() {{}}')
    assert result["run_success"] is False
    assert "root:" not in result["stderr"]


def test_a_template_bomb_is_bounded() -> None:
    bomb = (
        "template<int N, int M> struct A { enum { v = A<N-1, M>::v + A<N-1, M+1>::v }; };\n"
        "template<int M> struct A<0, M> { enum { v = M }; };\nint main() { return A<800, 0>::v; }"
    )
    with judge(CPP_COMPILE_TIME=3) as it:
        result = run(it, bomb)
    assert (result["run_success"], result["kind"], result["reason"]) == (False, "compile_error", "")


def test_python_and_cpp_in_one_batch(served: Judge) -> None:
    submissions = [
        {"type": "cpp", "solution": SUM, "input": "1 2"},
        {"type": "python", "solution": "print(3)"},
    ]
    results = served.post("/run/long-batch", type="batch", submissions=submissions)["results"]
    assert [result["stdout"] for result in results] == ["3\n", "3\n"]
