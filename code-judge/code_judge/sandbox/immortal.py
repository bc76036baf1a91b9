"""Objects whose reference counts no longer change, so that a fork copies none of their pages for being looked at.

CPython 3.12 leaves alone the count of an object that holds the value for immortal ones (PEP 683), meant for its
own. A process that only forks loses nothing by it: nothing of what is loaded is ever freed there. What a program sees
of it is `sys.getrefcount` of an object it did not make.
"""

import ctypes
import gc
import sys
import sysconfig
from types import CodeType
from typing import Any

_VERSIONS = (3, 12), (3, 14)
"""From and below: 3.14 counts in another way."""
_IMMORTAL = 0xFFFFFFFF


def immortalize() -> bool:
    """All that is loaded. False, and nothing is done, where the interpreter is not known to do this."""
    if not (_VERSIONS[0] <= sys.version_info < _VERSIONS[1]) or not _counts_come_first():
        return False
    found: set[int] = set()
    rest: list[Any] = gc.get_objects()
    own = {id(rest), id(found)}
    while rest:
        item = rest.pop()
        if id(item) in found or id(item) in own:
            continue
        found.add(id(item))
        if isinstance(item, CodeType):
            # The collector does not know what it holds.
            rest += (item.co_consts, item.co_names, item.co_name, item.co_qualname, item.co_filename)
        rest += gc.get_referents(item)
    for address in found:
        _count(address).value = _IMMORTAL
    return True


def _counts_come_first() -> bool:
    """Tried on an object of ours."""
    if sys.maxsize < 1 << 32 or sysconfig.get_config_var("Py_GIL_DISABLED") or hasattr(sys, "gettotalrefcount"):
        return False
    probe = object()
    count = _count(id(probe))
    if count.value != sys.getrefcount(probe) - 1:
        return False
    count.value = _IMMORTAL
    held = [probe] * 3
    return count.value == _IMMORTAL and len(held) == 3


def _count(address: int) -> ctypes.c_uint32:
    return ctypes.c_uint32.from_address(address)
