"""The window. Qt lives here and nowhere else; whatever is long or heavy is a job or a background task."""

from __future__ import annotations

import ctypes
import sys


def keep_singletons_alive() -> None:
    """Guard Python 3.11 against PySide6 6.12.0, which ends the process with "deallocating None" after some use.

    Its wheels are built for Pythons in which None, True, False and NotImplemented are immortal, and hand them
    out without counting a reference. 3.11 still counts: one is lost with each emitted signal (6.10.3 and
    6.11.3 lose none). A count that can never be used up makes them immortal here too; from 3.12 on they are (PEP 683).
    """
    if sys.version_info >= (3, 12) or sys.implementation.name != "cpython" or hasattr(sys, "getobjects"):
        return
    plenty = 1 << (40 if sys.maxsize > 2**32 else 28)
    for singleton in (None, True, False, NotImplemented):
        ctypes.c_ssize_t.from_address(id(singleton)).value += plenty


keep_singletons_alive()
