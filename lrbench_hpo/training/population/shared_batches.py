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
    """A place in the batches of one seed.

    Attributes:
        seed: the run's, which the data order follows from.
        iteration: batches drawn so far.
    """

    seed: int
    iteration: int = 0

    def moved(self, count: int) -> Cursor:
        """The place this many batches later."""
        return Cursor(self.seed, self.iteration + count)


class DataStreams:
    """The batches of any number of seeds and places, each drawn once for all that are there.

    Args:
        start: gives the batches of a seed, from the first.
    """

    def __init__(self, start: Callable[[int], Batches]) -> None:
        self._start = start
        self._streams: dict[Cursor, Batches] = {}

    def take(
        self, cursors: Iterable[Cursor], count: int, staying: Collection[Cursor] = ()
    ) -> dict[Cursor, list[Batch]]:
        """The next batches at each of these places.

        Args:
            cursors: where; each is ``count`` batches further after this.
            count: how many batches.
            staying: places where somebody stays; all others than these and where the given ones
                come to are forgotten.
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
        """A place, for `restore`."""
        return {**vars(cursor), "batches": self._at(cursor).state_dict()}

    def restore(self, state: Mapping[str, Any]) -> Cursor:
        """Come back to a place."""
        cursor = Cursor(state["seed"], state["iteration"])
        if cursor not in self._streams:
            stream = self._start(cursor.seed)
            stream.load_state_dict(state["batches"])
            self._streams[cursor] = stream
        return cursor

    def _at(self, cursor: Cursor) -> Batches:
        if cursor not in self._streams:
            if cursor.iteration:
                raise KeyError(cursor)  # streams only go on from where they are
            self._streams[cursor] = self._start(cursor.seed)
        return self._streams[cursor]


class Reader:
    """The batches of one network, as its loop asks for them.

    Args:
        streams: where they come from.
        seed: the run's.
    """

    def __init__(self, streams: DataStreams, seed: int) -> None:
        self.cursor = Cursor(seed)
        self._streams = streams
        self._ready: Iterator[Batch] = iter(())
        self._shared = False

    def give(self, batches: list[Batch], *, shared: bool) -> None:
        """Have these ready, which come next.

        Args:
            batches: the batches.
            shared: whether others get them too; a network may change its input in place.
        """
        self._ready, self._shared = iter(batches), shared
        self.cursor = self.cursor.moved(len(batches))

    def next(self) -> Batch:
        """The next batch that is ready."""
        images, labels = next(self._ready)
        return (images.clone() if self._shared else images), labels

    def state_dict(self) -> dict[str, Any]:
        """The place after all that was ready."""
        return self._streams.state_dict(self.cursor)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.cursor = self._streams.restore(state)
