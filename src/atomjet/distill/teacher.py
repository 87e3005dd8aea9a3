"""The teacher: any ASE calculator, named by a string so that a recipe can hold it and worker processes can build it."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
from collections.abc import Mapping
from typing import Any

from ase.calculators.calculator import Calculator

from atomjet.errors import AtomJetError, TeacherError
from atomjet.models import registry

TBLITE_METHODS = ("GFN2-xTB", "GFN1-xTB", "IPEA1-xTB")


def make_teacher(spec: str, options: Mapping[str, Any]) -> Calculator:
    """Build a calculator.

    Args:
        spec: "tblite:METHOD" (GFN2-xTB, GFN1-xTB, IPEA1-xTB); "atomjet:MODEL", a packaged model, a model file or a fairchem
            checkpoint, with settings of `atomjet.load` behind a question mark, e.g. "atomjet:uma-s-1p2p1.pt?task=omol"; or
            "package.module:factory", where factory(**options) returns an ASE calculator, e.g. "ase.calculators.emt:EMT".
        options: keyword arguments of the factory.

    Raises:
        TeacherError: not installed, no such module or factory, options that it refuses.
    """
    module_name, _, name = spec.partition(":")
    if not module_name or not name:
        raise TeacherError(
            f"teacher {spec!r} is not of the form tblite:METHOD, atomjet:MODEL or package.module:factory"
        )
    if module_name == "tblite":
        return _tblite(name, options)
    if module_name == "atomjet":
        return _atomjet(name, options)
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


def _atomjet(name: str, options: Mapping[str, Any]) -> Calculator:
    from atomjet.adapters.ase import AtomJetCalculator

    path, settings = _model_and_settings(name)
    try:
        return AtomJetCalculator(path, **settings, **options)
    except TypeError as error:
        raise TeacherError(f"teacher 'atomjet:{name}' refused options {dict(options)}: {error}") from error
    except AtomJetError as error:
        raise TeacherError(f"teacher 'atomjet:{name}': {error}") from error


def _model_and_settings(name: str) -> tuple[str, dict[str, str]]:
    """ "FILE?task=omol&precision=high" to the file and the settings."""
    path, _, query = name.partition("?")
    pairs = [part.partition("=") for part in query.split("&") if part]
    if not all(key and value for key, _, value in pairs):
        raise TeacherError(f"teacher 'atomjet:{name}': write settings as atomjet:FILE?name=value&name=value")
    return path, {key: value for key, _, value in pairs}


def describe_teacher(spec: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What labels depend on: {"calculator", "version", "options"}, of our own models also the file's "sha256"; stored with every
    dataset.
    """
    package = spec.partition(":")[0].partition(".")[0]
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"
    described = {"calculator": spec, "version": version, "options": dict(options)}
    if package == "atomjet":
        path = registry.locate(_model_and_settings(spec.partition(":")[2])[0])
        with path.open("rb") as file:
            described["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    return described
