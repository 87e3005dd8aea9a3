"""Which Python names a recipe may call to make its teacher, decided by looking at them and before any of them is called.

A recipe is a text that people pass on, so "package.module:factory" must not mean "call anything". What passes:

- a class that is an ASE calculator, from an installed package, or a class method of one that makes one ("Calculator.from_file"),
- a function of an installed package that says it returns an ASE calculator, or, saying nothing, stands in a module that has one,
- any function or class of a Python file beside the recipe that the user, not the recipe, has named as trusted.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from ase.calculators.calculator import BaseCalculator

from atomjet.distill.files import short
from atomjet.errors import TeacherError

WANTED = "a teacher is an ASE calculator class, or a function that returns one, of an installed package"
HOW_TO_TRUST = (
    "for code of your own write file.py:function, with the file beside the recipe, and call with --trust file.py"
)


def find_factory(spec: str, trusted: Sequence[Path] = ()) -> Callable[..., Any]:
    """Import what "package.module:name" or "file.py:name" says, and judge it.

    Raises:
        TeacherError: it cannot be imported, or is nothing that a recipe may call.
    """
    module_name, _, name = spec.partition(":")
    own = {file.stem: file for file in trusted} | {file.name: file for file in trusted}
    if module_name in own:
        return _attribute(_load_file(own[module_name], spec), name, spec)
    if module_name.endswith(".py") or os.sep in module_name:
        raise TeacherError(
            f"teacher {spec!r} is a file that nobody trusted; read it, then call with --trust {module_name}"
        )
    package = module_name.partition(".")[0]
    if package in sys.stdlib_module_names or package == "atomjet":
        whose = "Python's own library" if package != "atomjet" else "AtomJet, whose models are written atomjet:MODEL"
        raise TeacherError(f"teacher {spec!r} belongs to {whose}: not called; {WANTED}")
    try:
        _check_installed(package, spec)
        module = importlib.import_module(module_name)
    except TeacherError:
        raise
    except Exception as error:  # a module may raise anything while it is imported
        raise TeacherError(
            f"teacher {spec!r} cannot be imported: {short(error, 200)}; check the name and what is installed; {HOW_TO_TRUST}"
        ) from error
    found = _attribute(module, name, spec)
    if reason := why_not_factory(found, package):
        raise TeacherError(f"teacher {spec!r} {reason}: not called; {WANTED}; {HOW_TO_TRUST}")
    return found


def why_not_factory(found: Any, package: str) -> str | None:
    """What forbids to call it, or None: it makes an ASE calculator."""
    if inspect.isclass(found):
        return None if issubclass(found, BaseCalculator) else "is a class, but no ASE calculator"
    if inspect.ismethod(found):  # of a class: nothing else is bound before a call
        owner = found.__self__
        return (
            None if inspect.isclass(owner) and issubclass(owner, BaseCalculator) else "is a method of no ASE calculator"
        )
    plain = inspect.unwrap(found) if callable(found) else found
    if not isinstance(plain, FunctionType):
        return f"is of type {type(found).__name__}, neither a class nor a function written in Python"
    if str(plain.__module__).partition(".")[0] != package:
        return f"is defined in {plain.__module__}, not in {package}"
    return _why_no_calculator(plain)


def _why_no_calculator(function: FunctionType) -> str | None:
    """Judge a function by the type that it says it returns, else by the company it keeps."""
    calculators = {
        name
        for name, value in function.__globals__.items()
        if inspect.isclass(value) and issubclass(value, BaseCalculator)
    }
    returned = function.__annotations__.get("return", Any)
    if returned is Any or returned == "Any":
        return None if calculators else f"stands in {function.__module__}, which has no ASE calculator"
    # Many annotations are text, and name what is imported for type checkers alone.
    words = returned if isinstance(returned, str) else getattr(returned, "__name__", str(returned))
    named = set(re.findall(r"\w+", words))
    if named & calculators or any(name.endswith("Calculator") for name in named):
        return None
    return f"says that it returns {words[:60]}"


def _attribute(module: ModuleType, name: str, spec: str) -> Any:
    """The value of a dotted name, each part an attribute of the one before."""
    value: Any = module
    for part in name.split("."):
        try:
            value = getattr(value, part)
        except AttributeError as error:
            raise TeacherError(f"teacher {spec!r} cannot be imported: {short(error, 200)}; check the name") from error
        if inspect.ismodule(value):
            raise TeacherError(f"teacher {spec!r}: {short(part)} is a module; write package.module:factory")
    return value


def _check_installed(package: str, spec: str) -> None:
    """Refuse a module that is found only because of where the command was started."""
    found = importlib.util.find_spec(package)
    places = [Path(p) for p in (found.submodule_search_locations or [found.origin or "/"])] if found else []
    if any(place.resolve().parent == Path.cwd() for place in places):
        raise TeacherError(
            f"teacher {spec!r} lies in the current directory and is not installed: not called; {HOW_TO_TRUST}"
        )


def _load_file(file: Path, spec: str) -> ModuleType:
    """Run a trusted file once a process."""
    name = f"atomjet_trusted_{file.stem}"
    if name not in sys.modules or sys.modules[name].__file__ != str(file):
        described = importlib.util.spec_from_file_location(name, file)
        if described is None or described.loader is None:
            raise TeacherError(f"teacher {spec!r} cannot be imported: {file} is no Python file")
        module = importlib.util.module_from_spec(described)
        sys.modules[name] = module
        try:
            described.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise TeacherError(f"teacher {spec!r}: {file.name} fails: {type(error).__name__}: {error}") from error
    return sys.modules[name]
