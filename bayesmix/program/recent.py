"""What was made, kept for as long as it is among the last that were asked for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any


class Recent:
    """What `make()` gave for each of the last `size` keys; several threads may ask at a time.

    Another process, and a copy, begin with nothing: compiled functions stay where they were made.

    >>> from bayesmix.program.recent import Recent
    >>> recent = Recent(2)
    >>> [recent.get(word, lambda: len(word)) for word in ("one", "three", "one", "seven")]
    [3, 5, 3, 5]
    >>> recent.keys()
    ['one', 'seven']
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = Lock()

    def __reduce__(self) -> tuple[type[Recent], tuple[int]]:
        return Recent, (self.size,)

    def keys(self) -> list[Hashable]:
        """What is kept, from what was asked for longest ago to what was asked for last."""
        with self._lock:
            return list(self._kept)

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What `make()` gave when last called for this key; it is called where nothing is kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = make()  # not under the lock: it may take long, and ask for other keys
        with self._lock:
            made = self._kept.setdefault(key, made)  # another thread may have been faster
            self._kept.move_to_end(key)
            while len(self._kept) > self.size:
                self._kept.popitem(last=False)
            return made
