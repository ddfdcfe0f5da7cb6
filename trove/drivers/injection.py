"""What fakes can be told to do: be slow, fail, act and lose the reply."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator


@dataclasses.dataclass(slots=True, kw_only=True)
class _Fault:
    method: str
    error: BaseException
    times: int
    is_late: bool


class Injector:
    """Faults of one fake, by method; thread-safe.

    A fake wraps each method's work in ``with injector.around("method"):``.
    """

    def __init__(self) -> None:
        """Begin without faults."""
        self._lock = threading.Lock()
        self._faults: list[_Fault] = []
        self._never = threading.Event()
        self.latency_s = 0.0
        #: Called with the name of each method before it acts.
        self.watch: Callable[[str], None] | None = None

    def fail(
        self, method: str, error: BaseException, *, times: int = 1, lose_reply: bool = False
    ) -> None:
        """Have the next ``times`` calls of a method raise.

        With ``lose_reply`` the method acts first: only its answer is lost.
        """
        with self._lock:
            self._faults.append(_Fault(method=method, error=error, times=times, is_late=lose_reply))

    def clear(self) -> None:
        """Forget all faults."""
        with self._lock:
            self._faults.clear()

    def _take(self, method: str, *, is_late: bool) -> BaseException | None:
        with self._lock:
            for fault in self._faults:
                if fault.method == method and fault.is_late == is_late and fault.times > 0:
                    fault.times -= 1
                    return fault.error
        return None

    @contextlib.contextmanager
    def around(self, method: str) -> Iterator[None]:
        """Apply latency and faults to the work of one call."""
        if self.watch is not None:
            self.watch(method)
        if self.latency_s:
            self._never.wait(self.latency_s)
        error = self._take(method, is_late=False)
        if error is not None:
            raise error
        yield
        error = self._take(method, is_late=True)
        if error is not None:
            raise error
