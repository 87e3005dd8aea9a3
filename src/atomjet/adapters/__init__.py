"""Foreign words to ours and back; no physics."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any


def _import_when_used(name: str) -> None:
    """Let a package's own code run when one of its names is first asked for, not when one of its modules is imported.

    ase.io needs one module of ase.dft, whose package imports scipy.integrate: a sixth of what `atomjet predict` takes.
    """
    if name in sys.modules or (spec := importlib.util.find_spec(name)) is None or spec.loader is None:
        return
    loader, package = spec.loader, importlib.util.module_from_spec(spec)

    def run(attribute: str) -> Any:
        """Run the package's code, once, and return the name that was asked for (PEP 562)."""
        if vars(package).pop("__getattr__", None) is not None:
            loader.exec_module(package)
        return ModuleType.__getattribute__(package, attribute)

    vars(package)["__getattr__"] = run
    sys.modules[name] = package
    parent, _, own = name.rpartition(".")
    setattr(sys.modules[parent], own, package)


for package in ("ase.dft", "ase.spacegroup"):
    _import_when_used(package)
