"""A cache that is bounded by the memory its entries take."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class BoundedCache(Generic[V]):
    """A least-recently-used cache of at most `max_bytes`, or of one larger entry."""

    def __init__(self, max_bytes: int, size_of: Callable[[V], int]) -> None:
        self._max_bytes = max_bytes
        self._size_of = size_of
        self._entries: OrderedDict[Hashable, V] = OrderedDict()
        # an adapter has thousands of tensors to count
        self._sizes: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable) -> V | None:
        """The entry, now the most recently used one, or None."""
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key]

    def put(self, key: Hashable, value: V) -> None:
        """Add an entry and drop the least recently used ones beyond the bound."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        self._sizes[key] = self._size_of(value)
        while len(self._entries) > 1 and self.total_bytes > self._max_bytes:
            oldest, _ = self._entries.popitem(last=False)
            del self._sizes[oldest]

    @property
    def total_bytes(self) -> int:
        """The size of all entries."""
        return sum(self._sizes.values())
