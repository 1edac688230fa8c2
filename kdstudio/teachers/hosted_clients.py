"""An SDK's clients, taking turns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Client(Protocol):
    """An SDK's asynchronous client."""

    async def close(self) -> None:
        """Close its connections."""
        ...


ClientT = TypeVar("ClientT", bound=Client)


class Turns(Generic[ClientT]):
    """Several clients, made as they are needed, take turns.

    Each keeps few connections, since a pool looks at all of its own with every request.
    """

    def __init__(self, connect: Callable[[], ClientT], most: int) -> None:
        """`connect` makes a client, `most` is how many there may be."""
        self._connect, self._most, self._turn = connect, most, 0
        self._clients: list[ClientT] = []

    def client(self) -> ClientT:
        """The one whose turn it is."""
        self._turn = (self._turn + 1) % self._most
        if len(self._clients) < self._most:
            self._clients.append(self._connect())
            return self._clients[-1]
        return self._clients[self._turn]

    async def close(self) -> None:
        """Close the connections of all."""
        for client in self._clients:
            await client.close()
