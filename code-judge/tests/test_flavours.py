"""Which warm interpreter a program gets, and what becomes of one that cannot be warmed up."""

import pytest

from code_judge.sandbox import flavours


@pytest.mark.parametrize(
    ("source", "flavour"),
    [
        ("print(1)", "bare"),
        ("import numpy as np", "numpy"),
        ("def f():\n    from sympy import solve", "sympy"),
        ("import math, mpmath\nimport numpy", "sympy"),
        ("text = 'import numpy'", "bare"),
    ],
)
def test_imports_choose(source, flavour):
    assert flavours.choose(source) == flavour


def test_a_package_that_does_not_work_leaves_a_cold_zygote(monkeypatch, capsys):
    monkeypatch.setitem(flavours._WORK, "numpy", "import numpy\nnumpy.no_such_function()")
    flavours.warm("numpy")
    assert "numpy cannot be warmed up: AttributeError" in capsys.readouterr().err
