"""Batches that several networks share: each is drawn, augmented and moved once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lrbench_hpo.training.data.batches import Batches

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Cursor:
    """A position in the batches of one seed.

    Attributes:
        seed: the run's, which determines the data order.
        iteration: batches drawn so far.
    """

    seed: int
    iteration: int = 0

    def moved(self, count: int) -> Cursor:
        """The position this many batches later."""
        return Cursor(self.seed, self.iteration + count)


class SharedBatches:
    """The batches of any number of seeds, each drawn once for all networks at its position.

    Args:
        start: returns the batches of a seed, from the first.
    """

    def __init__(self, start: Callable[[int], Batches]) -> None:
        self._start = start
        self._streams: dict[Cursor, Batches] = {}

    def take(
        self, cursors: Iterable[Cursor], count: int, staying: Collection[Cursor] = ()
    ) -> dict[Cursor, list[Batch]]:
        """Draw the next batches at each of these positions.

        Only positions with a network on them are kept: those in ``staying``, and each of
        ``cursors`` moved by ``count``.

        Args:
            cursors: the positions of networks that are trained.
            count: how many batches.
            staying: the positions of networks that are not.
        """
        going = {cursor: self._at(cursor) for cursor in cursors}
        self._streams = {cursor: self._streams[cursor] for cursor in staying if cursor in self}
        for cursor in going.keys() & self._streams.keys():
            going[cursor] = self._copy(cursor)
        for cursor, stream in going.items():
            self._streams[cursor.moved(count)] = stream
        return {cursor: [stream.next() for _ in range(count)] for cursor, stream in going.items()}

    def __contains__(self, cursor: Cursor) -> bool:
        return cursor in self._streams

    def _copy(self, cursor: Cursor) -> Batches:
        stream = self._start(cursor.seed)
        stream.load_state_dict(self._streams[cursor].state_dict())
        return stream

    def state_dict(self, cursor: Cursor) -> dict[str, Any]:
        """A position, for `restore`."""
        return {**vars(cursor), "batches": self._at(cursor).state_dict()}

    def restore(self, state: Mapping[str, Any]) -> Cursor:
        """Make a saved position available again, and return it."""
        cursor = Cursor(state["seed"], state["iteration"])
        if cursor not in self._streams:
            stream = self._start(cursor.seed)
            stream.load_state_dict(state["batches"])
            self._streams[cursor] = stream
        return cursor

    def _at(self, cursor: Cursor) -> Batches:
        if cursor not in self._streams:
            if cursor.iteration:
                raise KeyError(cursor)  # a stream of batches cannot go back
            self._streams[cursor] = self._start(cursor.seed)
        return self._streams[cursor]


class BatchReader:
    """The batch source of one network's training loop.

    Args:
        batches: what the batches are drawn from.
        seed: the run's.
    """

    def __init__(self, batches: SharedBatches, seed: int) -> None:
        self.cursor = Cursor(seed)
        self._batches = batches
        self._ready: Iterator[Batch] = iter(())
        self._shared = False

    def receive(self, batches: list[Batch], *, shared: bool) -> None:
        """Take the batches that `next` returns from now on.

        Args:
            batches: the batches.
            shared: whether other networks get them too. They are copied then, because a network
                may change its input in place.
        """
        self._ready, self._shared = iter(batches), shared
        self.cursor = self.cursor.moved(len(batches))

    def next(self) -> Batch:
        """The next batch received."""
        images, labels = next(self._ready)
        return (images.clone() if self._shared else images), labels

    def state_dict(self) -> dict[str, Any]:
        """The position after all batches received."""
        return self._batches.state_dict(self.cursor)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved position."""
        self.cursor = self._batches.restore(state)
