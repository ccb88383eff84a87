"""What libraries do while they are imported, and should not.

TensorFlow writes to the terminal, whatever TF_CPP_MIN_LOG_LEVEL says. Only its messages are held back: no setting of
TensorFlow changes, so neither does any result. urllib3, which both TensorFlow and W&B import, opens a
socket to try out IPv6.
"""

from __future__ import annotations

import importlib.machinery
import os
import re
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from types import ModuleType

NOISE = re.compile(
    rb"(WARNING: All log messages before absl|I0000 |To enable the following instructions).*\n?"  # two lines are one
)


class _Finder(MetaPathFinder):
    """Finds these modules as Python does, and has them loaded in silence."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The usual place of these modules; of all others nothing."""
        if name not in _WHILE_IMPORTED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec and spec.loader:
            spec.loader = _Quiet(spec.loader)
        return spec


class _Quiet(Loader):
    """Loads a module as its own loader does, without the noise."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """As the module's own loader."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """As the module's own loader."""
        if module.__spec__:
            module.__spec__.loader = self._loader
        with _WHILE_IMPORTED[module.__name__]():
            self._loader.exec_module(module)


@contextmanager
def without_noise() -> Iterator[None]:
    """Hold back what is written to the process's standard error, and write it afterwards without the noise."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            os.write(2, NOISE.sub(b"", file.read()))


@contextmanager
def without_ipv6() -> Iterator[None]:
    """Let urllib3 not try out IPv6; it then asks the system for the addresses of a host when it connects."""
    before = socket.has_ipv6
    socket.has_ipv6 = False
    try:
        yield
    finally:
        socket.has_ipv6 = before
        sys.modules["urllib3.util.connection"].HAS_IPV6 = before  # type: ignore[attr-defined]


_WHILE_IMPORTED = {"tensorflow": without_noise, "urllib3.util.connection": without_ipv6}


def imports() -> None:
    """Have these modules imported in silence, whoever imports them, in this process."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
