"""`atomjet doctor`: what is installed, what is missing, and the command that repairs it."""

from __future__ import annotations

import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from atomjet.cli import options
from atomjet.cli.arguments import COMPUTING, Computing, grouped

if TYPE_CHECKING:
    from ase import Atoms

    from atomjet import Engine

REQUIRED = ("torch", "numpy", "ase", "vesin", "safetensors", "pydantic", "typer", "rich", "pyyaml", "matplotlib")
OPTIONAL = {
    "tblite": "the default teacher of distillation",
    "rdkit": "molecules from SMILES, for distillation",
    "h5py": "labelled data, for distillation",
    "triton": "kernels of the backend fast_gpu",
    "phonopy": "phonons of crystals",
    "pyarrow": "Parquet files",
    "spglib": "space groups, for relax --fix-symmetry and phonons",
}
HOSTS = {
    "atomjet-lammps": "AtomJet in LAMMPS, on any number of ranks",
    "openmmml": "AtomJet in OpenMM: MLPotential('atomjet', model=...)",
    "ray": "label, rounds and predict on the nodes of a cluster: --executor ray",
    "torch-sim-atomistic": "AtomJet in torch-sim: atomjet.adapters.torch_sim, Python 3.12 or newer",
    "ipi": "AtomJet in i-PI, path integrals: python -m atomjet.adapters.ipi",
    "nvalchemi-toolkit": "AtomJet in nvalchemi-toolkit: atomjet.adapters.nvalchemi",
    "matcalc": "properties of crystals by AtomJet's ASE calculator: examples/argon_elastic.py",
}
"""Programs that AtomJet runs in."""

MODULES = {
    "pyyaml": "yaml",
    "atomjet-lammps": "atomjet_lammps",
    "torch-sim-atomistic": "torch_sim",
    "nvalchemi-toolkit": "nvalchemi",
}
"""Packages that are imported by another name."""

NEWER_PYTHON = {"torch-sim-atomistic": (3, 12)}
"""Packages that an older Python does not get."""

FROM_THE_CLONE = {"atomjet-lammps": "./packages/atomjet-lammps"}
"""Packages that stand in this repository, under licences of their own."""


@dataclass(frozen=True)
class Finding:
    """One line of the report; `needed` findings that are not well make the status 1."""

    what: str
    well: bool
    says: str
    remedy: str = ""
    needed: bool = False


@grouped
def doctor(computing: Computing = COMPUTING) -> None:
    """Show devices, versions, and what is missing.

    Tries the model too. Ends with status 1 if a needed part does not work.
    """
    import typer

    failed = False
    for finding in _examine(computing):
        state = "ok" if finding.well else ("FAILED" if finding.needed else "missing")
        print(f"{finding.what:19} {state:8} {finding.says}")
        if not finding.well and finding.remedy:
            print(f"{'':19} {'repair:':8} {finding.remedy}")
        failed |= finding.needed and not finding.well
    if failed:
        raise typer.Exit(1)


def _examine(computing: Computing) -> Iterator[Finding]:
    import os

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("system", True, f"{platform.system()} {platform.machine()}, {cores} CPU cores")
    yield Finding("python", True, f"{platform.python_version()} at {sys.executable}")
    yield from (_package(name, "needed", needed=True) for name in ("atomjet", *REQUIRED))
    yield from (_package(name, purpose, needed=False) for name, purpose in (OPTIONAL | HOSTS).items())
    yield _cuda()
    yield _packaged()
    yield from _model(computing)


def _package(name: str, purpose: str, needed: bool) -> Finding:
    """Whether a package is there, and that it can be imported."""
    wanted = NEWER_PYTHON.get(name, (3, 11))
    python = sys.executable if sys.version_info >= wanted else "python{}.{}".format(*wanted)
    install = f'{python} -m pip install "{_requirement(name)}"'
    try:
        version = metadata.version(name)
        __import__(MODULES.get(name, name))
    except metadata.PackageNotFoundError:
        if name == "atomjet":  # run from a checkout by its path
            return Finding(name, True, "not installed, imported from its source")
        return Finding(name, False, purpose, install, needed)
    except Exception as error:  # a broken shared library raises whatever it likes
        reason = " ".join(str(error).split())
        return Finding(
            name, False, f"{purpose}; installed but broken: {reason}", f"{install} --force-reinstall", needed
        )
    return Finding(name, True, version if needed else f"{version} ({purpose})")


def _requirement(name: str) -> str:
    """The requirement as our own metadata states it, such as "tblite>=0.5", or where it stands in a clone."""
    if name in FROM_THE_CLONE:
        return FROM_THE_CLONE[name]
    try:
        stated = metadata.requires("atomjet") or []
    except metadata.PackageNotFoundError:
        stated = []
    for line in stated:
        requirement = line.split(";")[0].strip()
        if re.split(r"[^\w.-]", requirement)[0].lower() == name:
            return requirement
    return name


def _cuda() -> Finding:
    """GPUs that PyTorch can use."""
    import torch

    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count()))
        return Finding("CUDA", True, f"{torch.version.cuda}: {names}")
    if shutil.which("nvidia-smi"):
        remedy = f"{sys.executable} -m pip install --force-reinstall torch"
        return Finding("CUDA", False, f"there is an NVIDIA driver, but torch {torch.__version__} sees no GPU", remedy)
    return Finding("CUDA", False, "no NVIDIA driver on this machine; everything runs on the CPU")


def _packaged() -> Finding:
    """Models that came with the package, and what they are for."""
    from atomjet.models.registry import PURPOSES, packaged

    names = [f"{name} ({PURPOSES[name]})" if name in PURPOSES else name for name in packaged()]
    return Finding("packaged models", bool(names), "; ".join(names) or "none")


def _model(computing: Computing) -> Iterator[Finding]:
    """Whether the model loads and gives finite forces on a few of its own atoms; and the same ones by kernels as without."""
    import numpy as np
    from ase import Atoms

    from atomjet.errors import AtomJetError

    reinstall = f"{sys.executable} -m pip install --force-reinstall --no-deps atomjet"
    generator = np.random.default_rng(computing.seed)
    try:
        engine = options.load_engine(computing, quiet=True)
        places = np.argwhere(np.ones((2, 2, 2))) * 2.4 + generator.uniform(-0.1, 0.1, (8, 3))
        atoms = Atoms(generator.choice(engine.elements, 8), positions=places)
        forces = engine.predict(atoms).forces
    except AtomJetError as error:
        yield Finding(computing.model, False, str(error), reinstall, needed=True)
        return
    if not bool(forces.isfinite().all()):
        yield Finding(computing.model, False, f"{engine.describe()}: forces are not finite", reinstall, needed=True)
        return
    yield Finding(computing.model, True, f"{engine.describe()}: finite forces", needed=True)
    if engine.backend == "fast_gpu":
        yield _kernels(engine, atoms)


SAME = 1e-2
"""Largest difference of forces from those of `fast_pytorch`, as a share of their norm: kernels that differ more are wrong, not
rounded."""


def _kernels(engine: Engine, atoms: Atoms) -> Finding:
    """Whether the kernels, as they were compiled for this GPU, say what the same model says without them."""
    plain = engine.with_settings(backend="fast_pytorch", precision="high")
    exact, ours = plain.predict(atoms).forces.double(), engine.predict(atoms).forces.double()
    error = float((ours - exact).norm() / exact.norm())
    says = f"forces differ by {error:.1e} of their size from those of fast_pytorch"
    return Finding("kernels", error < SAME, says, "use --backend fast_pytorch, and report this", needed=True)
