"""The teacher: any ASE calculator, named by a string so that a recipe can hold it and worker processes can build it."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Mapping
from typing import Any

from ase.calculators.calculator import Calculator

from atomjet.errors import TeacherError

TBLITE_METHODS = ("GFN2-xTB", "GFN1-xTB", "IPEA1-xTB")


def make_teacher(spec: str, options: Mapping[str, Any]) -> Calculator:
    """Build a calculator.

    Args:
        spec: "tblite:METHOD" (GFN2-xTB, GFN1-xTB, IPEA1-xTB) or "package.module:factory", where factory(**options)
        returns
            an ASE calculator, e.g. "ase.calculators.emt:EMT".
        options: keyword arguments of the factory.

    Raises:
        TeacherError: not installed, no such module or factory, options that it refuses.
    """
    module_name, _, name = spec.partition(":")
    if not module_name or not name:
        raise TeacherError(f"teacher {spec!r} is not of the form tblite:METHOD or package.module:factory")
    if module_name == "tblite":
        return _tblite(name, options)
    try:
        factory = getattr(importlib.import_module(module_name), name)
        calculator = factory(**options)
    except (ImportError, AttributeError) as error:
        raise TeacherError(
            f"teacher {spec!r} cannot be imported: {error}; check the name and what is installed"
        ) from error
    except Exception as error:
        raise TeacherError(f"teacher {spec!r} refused options {dict(options)}: {error}") from error
    if not hasattr(calculator, "get_property"):
        raise TeacherError(f"teacher {spec!r} returned {type(calculator).__name__}, not an ASE calculator")
    return calculator


def _tblite(method: str, options: Mapping[str, Any]) -> Calculator:
    if method not in TBLITE_METHODS:
        raise TeacherError(f"tblite has no method {method!r}; choose one of {', '.join(TBLITE_METHODS)}")
    try:
        from tblite.ase import TBLite
    except ImportError as error:
        raise TeacherError(f"the teacher tblite:{method} needs tblite: pip install 'atomjet[distill]'") from error
    unknown = sorted(set(options) - set(TBLite.default_parameters))
    if unknown:  # tblite itself ignores what it does not know
        raise TeacherError(
            f"tblite has no option {unknown[0]!r}; it knows {', '.join(sorted(TBLite.default_parameters))}"
        )
    return TBLite(method=method, **{"verbosity": 0, **options})


def describe_teacher(spec: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What labels depend on: {"calculator", "version", "options"}; stored with every dataset."""
    package = spec.partition(":")[0].partition(".")[0]
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"
    return {"calculator": spec, "version": version, "options": dict(options)}
