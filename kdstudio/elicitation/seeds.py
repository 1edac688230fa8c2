"""Seeds: each question's own, so that neither order nor batch changes an answer."""

from __future__ import annotations

import hashlib


def request_seed(run_seed: int, key: str) -> int:
    """A request's own seed, 31 bits, from the run's seed and the stream "sampling": independent of order and batch."""
    digest = hashlib.blake2b(f"{run_seed}/sampling/{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & 0x7FFFFFFF
