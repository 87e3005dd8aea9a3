"""Packages of other libraries whose own code runs when one of their names is first asked for, in the process of a command.

ase.io needs one module of ase.dft and one of ase.spacegroup, whose packages import SciPy: a sixth of what `atomjet predict` takes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

PACKAGES = ("ase.dft", "ase.spacegroup")


class DeferredLoader(Loader):
    """Makes a package that runs its code, once, when a name is asked for that it does not have yet (PEP 562)."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the package's own loader does."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Leave the code for later; modules of the package can be imported meanwhile."""

        def run(name: str) -> Any:
            if vars(module).pop("__getattr__", None) is not None:
                self.loader.exec_module(module)
            return ModuleType.__getattribute__(module, name)

        vars(module)["__getattr__"] = run


class DeferredPackages(MetaPathFinder):
    """Finds some packages, as Python does, and defers their code."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The package's specification with a loader that defers; None for all others."""
        if fullname not in self.names:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = DeferredLoader(spec.loader)
        return spec


def defer_packages(names: Iterable[str] = PACKAGES) -> None:
    """Defer the code of packages that this process has not imported yet; for the program itself, never for whoever imports it."""
    sys.meta_path.insert(0, DeferredPackages(names))
