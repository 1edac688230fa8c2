"""The distillation step against TRL 1.16 and Liger 0.8.5: divergence with head, then whole training steps.

One row of 512 prompt and 512 response tokens in float32 on two threads, random weights, forward and backward. Every
peer gets what its own trainer gives it: TRL's stable loss the response alone, TRL's dense GKD loss and Liger's the
prompt too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from tests.benchmarks.figures import Figure
from tests.benchmarks.measuring import Command, Measurement, in_turns
from tests.benchmarks.peers.measured import Inputs
from tests.benchmarks.training_step import training_steps

TOKENS, RESPONSES, TOP_K = 1024, 512, 50
ROUNDS, RUNS = 2, 2
DENSE_TENSORS = 18  # as many [T, V] tensors as the dense loss was seen to hold at once


@dataclass(frozen=True)
class Case:
    """A divergence as both sides call it, and what is asked of us: times of the chunked peer's speed."""

    title: str
    ours: str
    beta: str
    bar: str


CASES = (
    Case("forward KL", "forward_kl", "0", ">= 1.6x"),
    Case("Jensen-Shannon", "jensen_shannon", "0.5", ">= 2.5x"),
)
SHAPES = ((49_152, (576, 576)), (151_936, (256, 512)))
"""Vocabulary, and the widths of student and teacher."""
BARRED = SHAPES[-1][0]
"""The vocabulary for which bars are set; with a smaller one the products weigh more, and everybody has those."""
PEERS = {
    "trl_chunked": ("TRL chunked", ""),
    "trl_dense": ("TRL dense GKD", ">= 4x"),
    "liger": ("Liger, torch", ">= 3x"),
    "liger_response": ("Liger given the response only", ""),
}
"""Peers by the name of their method, with the bar where it is the same for all divergences."""


def distillation() -> Iterator[Figure]:
    """The whole table."""
    yield from divergences()
    yield from training_steps()


def divergences() -> Iterator[Figure]:
    """Divergence and head, for each vocabulary."""
    for vocabulary, widths in SHAPES:
        with tempfile.TemporaryDirectory(prefix="kdstudio-bench-") as name:
            folder = Path(name)
            Inputs.random(TOKENS, RESPONSES, vocabulary, widths, TOP_K).save(folder)
            for case in CASES:
                yield from _divergence(folder, vocabulary, case)
            yield from _sparse(folder, vocabulary)


def _divergence(folder: Path, vocabulary: int, case: Case) -> Iterator[Figure]:
    """One divergence against every peer: time, memory, gradients, and the bare products."""
    where = f"{case.title} + head, V={vocabulary:,}"
    bars = vocabulary == BARRED
    print(f"  {where}", flush=True)
    peers = [name for name in PEERS if name != "trl_dense" or _dense_fits(vocabulary)]
    commands = {"ours": Command("tests.benchmarks.our_head", (folder, "dense", case.ours, RUNS), peer=False)}
    commands |= {name: _peer(folder, name, case.beta) for name in (*peers, "products")}
    found = in_turns(commands, ROUNDS)
    ours, gradients = found["ours"], _gradient_megabytes(folder)
    for name in peers:
        title, bar = PEERS[name]
        wanted = case.bar if name == "trl_chunked" else bar
        yield Figure(where, ours.median, "s", wanted if bars else "", found[name].median, title)
        yield Figure(f"{where}: of the cores", ours.of_cores, "s", "", found[name].of_cores, title)
    for name in peers:
        title, bar = PEERS[name][0], ">= 4x" if bars and name != "liger_response" else ""
        yield Figure(f"{where}: peak memory", ours.megabytes, "MB", bar, found[name].megabytes, title)
        rest, theirs = ours.megabytes - gradients, found[name].megabytes - gradients
        yield Figure(f"{where}: the same less the gradients themselves", rest, "MB", "", theirs, title)
    bare = found["products"]
    yield Figure(f"{where}: share of the bare products' speed", ours.median, "s", "0.8x", bare.median, "four torch.mm")
    yield Figure(f"{where}: the same, of the cores", ours.of_cores, "s", "", bare.of_cores, "four torch.mm")
    for name in peers:
        far = max(_difference(folder, f"dense-{case.ours}", f"{name}-{case.beta}", leaf) for leaf in ("hidden", "head"))
        yield Figure(f"{where}: gradients against {PEERS[name][0]}", far, "of the largest", "<= 1e-4")
    _forget_gradients(folder)


def _sparse(folder: Path, vocabulary: int) -> Iterator[Figure]:
    """A stored top-k signal against learning from text alone."""
    where = f"forward KL from stored top {TOP_K} + head, V={vocabulary:,}"
    print(f"  {where}", flush=True)
    commands = {
        "ours": Command("tests.benchmarks.our_head", (folder, "sparse", "forward_kl", RUNS), peer=False),
        "cross_entropy": _peer(folder, "cross_entropy", "0"),
        "trl_chunked JSD": _peer(folder, "trl_chunked", "0.5"),
    }
    found: dict[str, Measurement] = in_turns(commands, ROUNDS)
    ours, plain, other = (found[name] for name in commands)
    yield Figure(where, ours.median, "s", "<= 1.15x the time: 0.87x", plain.median, "plain torch cross-entropy")
    yield Figure(where, ours.median, "s", ">= 4x", other.median, "TRL chunked, Jensen-Shannon")
    yield Figure(f"{where}: of the cores", ours.of_cores, "s", "", plain.of_cores, "plain torch cross-entropy")
    yield Figure(f"{where}: peak memory", ours.megabytes, "MB", "", plain.megabytes, "plain torch cross-entropy")
    _forget_gradients(folder)


def _peer(folder: Path, method: str, beta: str) -> Command:
    return Command("tests.benchmarks.peers.heads", (folder, method, beta, RUNS), peer=True)


def _dense_fits(vocabulary: int) -> bool:
    needed = DENSE_TENSORS * TOKENS * vocabulary * 4
    if psutil.virtual_memory().available > needed:
        return True
    print(f"    trl_dense is left out: it needs {needed / 1e9:.0f} GB", flush=True)
    return False


def _gradient_megabytes(folder: Path) -> float:
    """What every side must hold: the gradients of hidden states and head."""
    return sum(float(np.load(folder / f"{leaf}.npy", mmap_mode="r").nbytes) for leaf in ("hidden", "head")) / 1e6


def _difference(folder: Path, ours: str, theirs: str, leaf: str) -> float:
    """The largest difference of two gradients, as a share of the largest number in them."""
    a, b = (np.load(folder / f"{name}.{leaf}.npy", mmap_mode="r") for name in (ours, theirs))
    return float(np.abs(a - b).max() / np.abs(b).max())


def _forget_gradients(folder: Path) -> None:
    """Some gigabytes."""
    for path in folder.glob("*-*.npy"):
        path.unlink()
