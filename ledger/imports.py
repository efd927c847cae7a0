"""Importing packages without what they load wherever they find it, and nobody here uses."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from threading import get_ident
from types import ModuleType


class _Hiding(MetaPathFinder):
    """Finds nothing of some modules for the thread that made it; others import them meanwhile as ever."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._modules = modules
        self._thread = get_ident()

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Tell that there is no such module, or leave it to the other finders."""
        if name in self._modules and get_ident() == self._thread:
            raise ModuleNotFoundError(f"{name} is not loaded here", name=name)
        return None


@contextmanager
def without(*modules: str) -> Iterator[None]:
    """Have what this thread imports meanwhile not find some modules; those that are loaded already stay.

    It is for packages that look whether another one is there, and do without it. Later imports find what was hidden.
    """
    hiding = _Hiding(modules)
    sys.meta_path.insert(0, hiding)
    try:
        yield
    finally:
        sys.meta_path.remove(hiding)
