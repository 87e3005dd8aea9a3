"""`atomjet-lmp`: runs a LAMMPS input with an AtomJet model, alone or under mpirun."""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mpi4py import MPI  # isort: skip
import torch
from lammps import lammps

import atomjet
from atomjet.engine.torch_halo import device_of
from atomjet.errors import AtomJetError, BackendError, ConfigError
from atomjet_lammps.driver import FIX, attach
from atomjet_lammps.session import FORCES, PAIRWISE, STRESSES
from atomjet_lammps.transport import end

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
    comm = MPI.COMM_WORLD
    with contextlib.ExitStack() as silent:
        if comm.rank:  # all ranks are given the same words: one of them says what is wrong with these
            silent.enter_context(contextlib.redirect_stderr(io.StringIO()))
            silent.enter_context(contextlib.redirect_stdout(io.StringIO()))
        options = _parser().parse_args(arguments)
    try:
        _run(options, comm)
    except AtomJetError as error:
        end(comm, str(error), 2)
    except Exception as error:  # LAMMPS's own
        end(comm, str(error).removeprefix("ERROR: "), 1)


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
    parser.add_argument(
        "--backend", default=None, help="default: of one rank the fastest, of several fast_pytorch or general"
    )
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
    if types and options.types and types != options.types:
        raise ConfigError(
            f"--types {' '.join(options.types)}, but pair_coeff names {' '.join(types)}; give one of the two"
        )
    if comm.size > 1:
        torch.set_num_threads(1)
    device = options.device or str(device_of(comm.Split_type(MPI.COMM_TYPE_SHARED).rank))
    engine = load(options, device, comm.size > 1)
    for rank, line in enumerate(comm.gather(engine.describe(), 0) or []):
        print(f"rank {rank}: {line}", flush=True)
    words = ["-log", options.log]
    for name, *values in options.var:
        words += ["-var", name, *values]
    if options.screen:
        words += ["-screen", options.screen]
    lmp = lammps(cmdargs=words, comm=comm)
    lmp.commands_string(before)
    driver = attach(lmp, engine, options.types or types)
    driver.stresses |= any(style in text for style in STRESSES)
    with _one_file(after, comm) as path:
        lmp.file(path)
    if not lmp.has_id("fix", FIX):
        raise ConfigError(f"the input has taken the fix {FIX!r} away: what ran after that had no forces; leave it")
    lmp.close()


def load(options: argparse.Namespace, device: str, shared: bool) -> atomjet.Engine:
    """The model, on several ranks with the fastest backend that can share a structure and has done so on all devices."""
    given = {"device": device, "precision": options.precision}
    given |= {"task": options.task, "charge": options.charge, "spin": options.spin}
    if options.backend or not shared:
        return atomjet.load(options.model, backend=options.backend or "auto", **given)
    try:
        engine = atomjet.load(options.model, backend="fast_pytorch", **given)
    except BackendError:  # not written for every model
        return atomjet.load(options.model, backend="general", **given)
    return engine if engine.evaluator.exchanges is not None else engine.with_settings(backend="general")


def _read(path: Path) -> str | AtomJetError:
    try:
        return path.read_text()
    except OSError as error:
        return ConfigError(f"cannot read {path}: {error.strerror}")


def split(text: str) -> tuple[str, list[str] | None, str]:
    """Cut an input where the model's forces begin: what stands before, the elements that `pair_coeff` names, what follows.

    Raises:
        ConfigError: no `pair_style atomjet` line, or one that would add other forces, need pair energies or take the model away.
    """
    lines = _joined(text.splitlines())
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
    for number, line in enumerate(lines[place + 1 :], place + 2):
        words = line.split("#")[0].split()
        _check_line(words, number)
        if words[:1] == ["pair_coeff"]:
            types = words[3:] or types
            line = ""
        rest.append(line)
    return "\n".join(lines[:place]) + "\n", types, "\n".join(rest) + "\n"


def _check_line(words: list[str], number: int) -> None:
    """Refuse a command behind `pair_style atomjet` that `attach` would have refused before it.

    Raises:
        ConfigError: names the line.
    """
    command = words[0] if words else ""
    if command in [f"{name.lower()}_style" for name in FORCES] and words[1:2] not in ([["none"], ["zero"]]):
        raise ConfigError(f"line {number}: {' '.join(words[:2])} would add its forces to the model's; take it out")
    if command in PAIRWISE and words[3:4] and words[3] in PAIRWISE[command]:
        raise ConfigError(
            f"line {number}: {command} {words[3]} needs energies or forces of single pairs of atoms, which a model does not have; "
            "take it out"
        )
    if command == "clear":
        raise ConfigError(f"line {number}: 'clear' takes the model's forces away; write an input for each system")
    if command == "neigh_modify" and "once" in words and words[words.index("once") + 1 :][:1] not in (["no"], ["off"]):
        raise ConfigError(
            f"line {number}: neigh_modify once yes: ranks would lack atoms that come near later; take it out, LAMMPS looks anew "
            "where atoms have moved"
        )
    if words[:2] == ["run_style", "respa"]:
        raise ConfigError(f"line {number}: run_style respa asks for forces of some levels only; use 'run_style verlet'")


def _joined(lines: list[str]) -> list[str]:
    """Lines that end with '&' together with what follows them, and as many empty ones, so that numbers of lines stay."""
    found: list[str] = []
    empty = 0
    for line in lines:
        if found and found[-1].rstrip().endswith("&") and "#" not in found[-1]:
            found[-1] = found[-1].rstrip()[:-1] + line
            empty += 1
        else:
            found += [""] * empty + [line]
            empty = 0
    return found + [""] * empty


@contextlib.contextmanager
def _one_file(text: str, comm: MPI.Intracomm):  # type: ignore[no-untyped-def]
    """A file with this text that rank 0 makes and LAMMPS reads: loops (`jump SELF`) need a file."""
    with tempfile.TemporaryDirectory() if comm.rank == 0 else contextlib.nullcontext("") as folder:
        path = str(Path(folder) / "in.lammps")
        if comm.rank == 0:
            Path(path).write_text(text)
        yield comm.bcast(path, 0)
