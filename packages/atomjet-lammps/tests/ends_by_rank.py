"""Run by mpirun: a simulation on these ranks in which the last one fails in the way that is named."""

import os
import signal
import sys
from collections.abc import Callable

from mpi4py import MPI  # isort: skip
import atomjet_lammps
from cases_by_rank import make, student, water
from torch import Tensor

from atomjet.data import ExchangeHalo

COMM = MPI.COMM_WORLD


def in_an_exchange(happen: Callable[[], None]) -> None:
    """Let something happen on the last rank in the middle of the second step."""
    fill = ExchangeHalo.fill

    def failing(self: ExchangeHalo, *rows: Tensor) -> None:
        if COMM.rank == COMM.size - 1 and self.exchanges > 6:
            happen()
        fill(self, *rows)

    ExchangeHalo.fill = failing  # type: ignore[method-assign]


def out_of_memory() -> None:
    """As an allocation fails."""
    raise MemoryError("unable to allocate 12 GiB")


if __name__ == "__main__":
    temperature = 3000.0 if sys.argv[1] == "never looks again" else 300.0
    lmp = make(water(2), temperature, 0.5, "atom_style molecular" if sys.argv[1] == "bonds" else "")
    atomjet_lammps.attach(lmp, student("fast_pytorch"))
    match sys.argv[1]:
        case "killed":
            in_an_exchange(lambda: os.kill(os.getpid(), signal.SIGKILL))
        case "raises":
            in_an_exchange(out_of_memory)
        case "other pair style":
            lmp.command("pair_style none")
        case "bonds":
            lmp.commands_string("run 2\nreset_timestep 0\nbond_style harmonic")
        case "never looks again":
            lmp.command("neigh_modify every 1 delay 100000 check no")
        case "some atoms' images":
            lmp.commands_string("group oxygen type 2\natom_modify first oxygen\ncomm_modify group oxygen")
    lmp.command("run 40" if sys.argv[1] == "never looks again" else "run 5")
