"""What the kernels beside the encoder share: a handle with threads, which ends with its process.

In: the functions of the library whose names begin with `minilm_NAME_`. Out: objects that call them.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

from minilm.errors import UsageError
from minilm.kernels.encoder import chosen_isa
from minilm.kernels.library import NotCopied, declared, error_of, find_library

K = TypeVar("K", bound="ThreadedKernel")


class ThreadedKernel(NotCopied):
    """A kernel with its threads; memory is taken when it is needed, and kept.

    A call releases the GIL. Several threads may call at once: one waits for the other.

    Raises (all methods): UsageError with the reason why the kernel rejects what it is given.
    """

    name: ClassVar[str]
    arguments: ClassVar[dict[str, Sequence[Any]]]
    """Types of the functions after `minilm_NAME_` that are not common to all kernels."""
    results: ClassVar[dict[str, Any]] = {}
    _shared: ClassVar[Any] = None  # the key and the kernel of `shared`; of each class

    def __init__(self, *, threads: int) -> None:
        """Choose the instruction set, as `chosen_isa`.

        Raises:
            SystemProblem: there are no kernels.
        """
        self._handle: int | None = None
        self.threads, self.isa = threads, chosen_isa()
        self._library, self._process = self._declared(), os.getpid()
        handle = ctypes.c_void_p()
        self._check(self._function("create")(self.isa.encode(), threads, ctypes.byref(handle)))
        self._handle = handle.value

    @classmethod
    def shared(cls: type[K], threads: int) -> K | None:
        """The kernel that this whole process uses, with `threads` threads; None if there are no kernels."""
        if find_library().functions is None:
            return None
        key = (os.getpid(), threads, chosen_isa())
        if cls._shared is None or cls._shared[0] != key:
            cls._shared = (key, cls(threads=threads))
        kernel: K = cls._shared[1]
        return kernel

    def __del__(self) -> None:
        """Free the memory and end the threads."""
        if self._handle is not None:
            self._function("free")(self._handle)

    def _call(self, name: str, *arguments: object) -> None:
        """Call a function that can fail, and that may use the threads."""
        if self._process != os.getpid() and self.threads > 1:
            raise UsageError(
                f"the {self.name} kernel was made before this process was forked, and its threads do not survive a "
                "fork: make it in the child, start the child with 'spawn', or make it with threads=1"
            )
        self._check(self._function(name)(self._handle, *arguments))

    def _function(self, name: str) -> Callable[..., int]:
        found: Callable[..., int] = getattr(self._library, f"minilm_{self.name}_{name}")
        return found

    def _check(self, failed: int) -> None:
        if failed:
            raise UsageError(f"the {self.name} kernel: {error_of(self._library)}")

    def _declared(self) -> ctypes.CDLL:
        """The library with the types of the functions; raises SystemProblem without one."""
        pointer, number = ctypes.c_void_p, ctypes.c_int
        common: dict[str, Sequence[Any]] = {"create": [ctypes.c_char_p, number, pointer], "free": [pointer]}
        prefix = f"minilm_{self.name}_"
        return declared(
            f"the {self.name} kernel",
            results={prefix + name: result for name, result in {"free": None, **self.results}.items()},
            arguments={prefix + name: types for name, types in {**common, **self.arguments}.items()},
        )
