"""A measured figure, with its peer where there is one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """`value` in `unit`; `peer` the same work done by `peer_name`. `bar`: what design asks for, in words."""

    work: str
    value: float
    unit: str
    bar: str = ""
    peer: float | None = None
    peer_name: str = ""
    smaller_is_better: bool = True

    @property
    def ratio(self) -> float | None:
        """How many times better than the peer."""
        if not self.peer or not self.value:
            return None
        return self.peer / self.value if self.smaller_is_better else self.value / self.peer

    def as_dict(self) -> dict[str, Any]:
        """For bench.json."""
        return {**asdict(self), "ratio": self.ratio}

    def __str__(self) -> str:
        against = f", {self.ratio:.1f}x of {self.peer_name} ({self.peer:,.3g} {self.unit})" if self.ratio else ""
        return f"{self.work}: {self.value:,.3g} {self.unit}{against}{f'  [bar: {self.bar}]' if self.bar else ''}"
