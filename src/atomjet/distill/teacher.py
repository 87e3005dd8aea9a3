"""The teacher: any ASE calculator, named by a string so that a recipe can hold it and worker processes can build it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ase.calculators.calculator import Calculator

from atomjet.distill.factories import find_factory
from atomjet.distill.files import short
from atomjet.distill.recipe import TeacherConfig
from atomjet.errors import AtomJetError, TeacherError
from atomjet.models import load as model_load
from atomjet.models import registry

LONGEST_SPEC = 500

TBLITE_METHODS = ("GFN2-xTB", "GFN1-xTB", "IPEA1-xTB")


def build_teacher(teacher: TeacherConfig) -> Calculator:
    """The calculator of a recipe, see `make_teacher`."""
    return make_teacher(teacher.calculator, teacher.options, teacher.trusted)


@lru_cache(maxsize=2)
def _kept(calculator: str, options: str, trusted: tuple[Path, ...]) -> Calculator:
    return make_teacher(calculator, json.loads(options), trusted)


def teacher_of_worker(teacher: TeacherConfig) -> Calculator:
    """The calculator for one task: built once a process, and as new at each call, so that no label depends on those before it.

    tblite starts a calculation from the orbitals of the last, and costs nothing to build: it is built anew.
    """
    if teacher.calculator.startswith("tblite:") or not _plain(teacher.options):
        return build_teacher(teacher)
    calculator = _kept(teacher.calculator, json.dumps(teacher.options, sort_keys=True), teacher.trusted)
    calculator.reset()
    return calculator


def _plain(options: Mapping[str, Any]) -> bool:
    """Whether options come back from JSON as they were."""
    try:
        return json.loads(json.dumps(options)) == options
    except (TypeError, ValueError):
        return False


def describe(teacher: TeacherConfig) -> dict[str, Any]:
    """What the labels of a recipe depend on, see `describe_teacher`."""
    return describe_teacher(teacher.calculator, teacher.options, teacher.trusted)


def check_teacher(teacher: TeacherConfig, about: Mapping[str, Any]) -> None:
    """Build the teacher where other machines compute, and see that it is the one that this run's labels are remembered under.

    Args:
        teacher: of the recipe.
        about: `describe` of it on the machine that the run was started on.

    Raises:
        TeacherError: it cannot be built here, or differs.
    """
    teacher_of_worker(teacher)
    own = describe(teacher)
    for name, value in about.items():
        if own.get(name) != value:
            raise TeacherError(
                f"the teacher {teacher.calculator} has {name} {short(own.get(name))}, where the run was started {short(value)}; "
                "install the same one, and put files where every node sees them"
            )


def make_teacher(spec: str, options: Mapping[str, Any], trusted: Sequence[Path] = ()) -> Calculator:
    """Build a calculator.

    Args:
        spec: "tblite:METHOD" (GFN2-xTB, GFN1-xTB, IPEA1-xTB); "atomjet:MODEL", a packaged model, a model file or a fairchem
            checkpoint, with settings of `atomjet.load` behind a question mark, e.g. "atomjet:uma-s-1p2p1.pt?task=omol"; or
            "package.module:factory", where factory(**options) returns an ASE calculator, e.g. "ase.calculators.emt:EMT", as
            far as `find_factory` lets it pass.
        options: keyword arguments of the factory.
        trusted: Python files whose functions may be called, written "file.py:function".

    Raises:
        TeacherError: not installed, no such module or factory, nothing that makes a calculator, options that it refuses.
    """
    module_name, _, name = spec.partition(":")
    if not module_name or not name or len(spec) > LONGEST_SPEC:
        raise TeacherError(
            f"teacher {short(repr(spec))} is not of the form tblite:METHOD, atomjet:MODEL or package.module:factory"
        )
    if module_name == "tblite":
        return _tblite(name, options)
    if module_name == "atomjet":
        return _atomjet(name, options)
    factory = find_factory(spec, trusted)
    if "command" in options and module_name not in {name for file in trusted for name in (file.stem, file.name)}:
        raise TeacherError(
            f"teacher {spec!r}: option 'command' would run a program that the recipe chooses: not called; set it in ASE's own "
            "configuration file"
        )
    try:
        calculator = factory(**options)
    except Exception as error:
        raise TeacherError(f"teacher {spec!r} refused options {short(dict(options))}: {short(error, 200)}") from error
    if not hasattr(calculator, "get_property") or isinstance(calculator, type):
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
        # Labels are not where to save time: by default in float32 throughout, on a GPU too.
        return AtomJetCalculator(path, **{"precision": "high", **settings, **options})
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


def default_task(spec: str) -> str:
    """Task that one of our own models takes for structures that name none, "" where the recipe says none."""
    return _model_and_settings(spec.partition(":")[2])[1].get("task", "") if spec.startswith("atomjet:") else ""


def describe_teacher(spec: str, options: Mapping[str, Any], trusted: Sequence[Path] = ()) -> dict[str, Any]:
    """What labels depend on: {"calculator", "version", "options"}, of our own models and of trusted files also the file's
    "sha256", and "files": the SHA-256 of each file that an option names, such as a model; stored with every dataset.
    """
    package = spec.partition(":")[0].partition(".")[0]
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"
    described = {"calculator": spec, "version": version, "options": dict(options)}
    module = spec.partition(":")[0]
    own = next((file for file in trusted if module in (file.stem, file.name)), None)
    path = registry.locate(_model_and_settings(spec.partition(":")[2])[0]) if package == "atomjet" else own
    if path is not None:
        described["sha256"] = _digest(path)
    if files := {name: _digest(Path(name)) for name in _file_names(options)}:
        described["files"] = files
    return described


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file_names(value: Any) -> list[str]:
    """Texts within options that are names of files: a file of the same name with other content is another teacher."""
    if isinstance(value, Mapping):
        return _file_names(list(value.values()))
    if isinstance(value, list | tuple):
        return sorted({name for one in value for name in _file_names(one)})
    return [value] if isinstance(value, str) and value and "\0" not in value and os.path.isfile(value) else []


def licence_of(spec: str) -> str:
    """Licence of the teacher: of one of our own models what its card says, of a package what its metadata say."""
    try:
        if spec.startswith("atomjet:"):
            path = registry.locate(_model_and_settings(spec.partition(":")[2])[0])
            if path.suffix == ".pt":
                return "not recorded in its checkpoint; ask its publisher"
            return str(model_load.read(path)[1].get("licence") or "unknown")
        metadata = importlib.metadata.metadata(spec.partition(":")[0].partition(".")[0]).json
    except (AtomJetError, importlib.metadata.PackageNotFoundError, ValueError):
        return "unknown"
    classifiers = [c.rpartition(" :: ")[2] for c in metadata.get("classifier", ()) if c.startswith("License ::")]
    licence = metadata.get("license_expression") or metadata.get("license") or next(iter(classifiers), "")
    return short(licence, 60) or "unknown"
