"""Immortal objects, in a process of their own: they stay so."""

import subprocess
import sys

SCRIPT = """
import collections, json, sys
from code_judge.sandbox.immortal import immortalize

class Thing: ...
thing, done = Thing(), immortalize()
counts = [sys.getrefcount(found) for found in (thing, Thing, json.dumps, json.dumps.__code__, collections.OrderedDict)]
held = [thing] * 100
fresh = [object() for _ in range(1000)]
assert counts == [sys.getrefcount(found) for found in (thing, Thing, json.dumps, json.dumps.__code__,
                                                      collections.OrderedDict)] or not done
del held, thing
assert sys.getrefcount(fresh[0]) == 2
assert json.loads(json.dumps({"a": [1, 2.5, "x"]})) == {"a": [1, 2.5, "x"]}
print(done, all(count == 0xFFFFFFFF for count in counts))
"""


def test_what_is_loaded_is_no_longer_counted_where_the_interpreter_can() -> None:
    out = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60)
    can = (3, 12) <= sys.version_info < (3, 14)
    assert (out.stdout, out.returncode) == (f"{can} {can}\n", 0), out.stderr
