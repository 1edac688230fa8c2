"""What was asked of a teacher that costs money: written before it is sent, and again before it is read."""

from __future__ import annotations

from typing import Protocol


class Ledger(Protocol):
    """Keeps the attempts of one run."""
