"""LAMMPS on one, two and four ranks against AtomJet alone; what is refused; the inputs shipped as examples."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from mpi4py import MPI  # isort: skip
import numpy as np
import pytest
import torch
from atomjet_lammps.command import load, split
from atomjet_lammps.transport import MpiTransport

import atomjet
from atomjet.errors import ConfigError
from atomjet.models import tensor_file
from atomjet.models.painn import PaiNN, PaiNNConfig

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"
RANKS = (1, 2, 4)
PER_GHOST = {"general": 4 * 128 * 4 + 3, "fast_pytorch": 4 * 128 * 5 + 3}
STEPS = 1000
START = "from atomjet_lammps.command import run; run()"


def mpirun(
    ranks: int, *words: object, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Python on so many ranks, with the mpirun of the environment's MPI library."""
    launcher = Path(sys.executable).parent / "mpirun"
    command = [str(launcher), "-n", str(ranks), sys.executable, *(str(word) for word in words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=1800, cwd=cwd, env=env)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lammps")
    results = {}
    for ranks in RANKS:
        out = folder / f"{ranks}.json"
        ran = mpirun(ranks, HERE / "cases_by_rank.py", out, folder / f"{ranks}.restart", STEPS)
        assert ran.returncode == 0, ran.stderr
        results[ranks] = json.loads(out.read_text())
    return results


@pytest.mark.parametrize("backend", ["general", "fast_pytorch"])
@pytest.mark.parametrize("case", ["periodic", "triclinic", "slab", "corner"])
@pytest.mark.parametrize("ranks", RANKS)
def test_any_number_of_ranks_computes_what_one_process_does(found, ranks, case, backend):
    row = found[ranks][f"{case} {backend}"]
    assert row["force"] < 1e-10
    assert row["energy"] < 1e-9
    assert row["atomic"] < 1e-9
    assert row.get("virial", 0.0) < 1e-12
    assert row["total"] == pytest.approx(found[1][f"{case} {backend}"]["total"], abs=1e-9)
    assert row["sent"] == PER_GHOST[backend] * row["ghosts"]


def test_a_corner_leaves_ranks_without_atoms(found):
    assert found[4]["corner general"]["owned"].count(0) == 3


@pytest.mark.parametrize("ranks", RANKS[1:])
def test_hot_steps_in_which_atoms_change_their_owners(found, ranks):
    row = found[ranks]["hot"]
    assert row["builds"] > 10
    assert row["force"] < 1e-10
    assert row["total"] == pytest.approx(found[1]["hot"]["total"], abs=1e-9)


@pytest.mark.parametrize("ranks", RANKS[1:])
def test_a_thousand_steps_of_constant_energy(found, ranks):
    assert found[ranks]["long"]["total"] == pytest.approx(found[1]["long"]["total"], abs=1e-9)


@pytest.mark.parametrize("ranks", RANKS)
def test_runs_again_minimises_and_restarts(found, ranks):
    row = found[ranks]["repeated"]
    assert row["after"] == pytest.approx(row["before"], abs=1e-9)
    assert row["before"] == pytest.approx(found[1]["repeated"]["before"], abs=1e-3)


@pytest.mark.parametrize("backend", ["general", "fast_pytorch"])
@pytest.mark.parametrize("case", ["triclinic", "corner"])
@pytest.mark.parametrize("ranks", RANKS)
def test_a_model_that_mixes_experts_and_balances_charge(found, ranks, case, backend):
    row = found[ranks][f"{case} uma {backend}"]
    assert row["force"] < 1e-10
    assert row["energy"] < 1e-9
    assert row["atomic"] < 1e-9
    assert row.get("virial", 0.0) < 1e-12
    # Nine coefficients and eight channels before and after each of two layers, and forces, in every evaluation of this halo.
    assert row["exchanges"] % 5 == 0
    assert row["sent"] == (row["exchanges"] // 5) * (9 * 8 * 2 * 2 + 3) * row["ghosts"]


INPUTS = (
    "newton", "processors", "shares", "few atoms", "box of less than a cutoff", "narrow communication", "wide skin", "tiles",
    "every", "seldom looked", "other elements", "deleted", "created", "deposited", "swapped", "lost", "tilted", "open", "flipped",
    "triclinic pressure", "relaxed box", "from an empty box",
)  # fmt: skip


@pytest.mark.parametrize("ranks", RANKS)
def test_what_users_write_beside_run(found, ranks):
    rows = found[ranks]["inputs"]
    assert set(rows) == set(INPUTS)
    for name, row in rows.items():
        assert row["force"] < 1e-10, name
        assert row["energy"] < 1e-9, name
        assert row.get("atomic", 0.0) < 1e-9, name
        assert row.get("pressure", 0.0) < 1e-10, name
        assert row.get("stresses", 0.0) < 1e-10, name
    numbers = {name: row["atoms"] for name, row in rows.items()}
    assert (numbers["deleted"], numbers["created"], numbers["deposited"], numbers["from an empty box"]) == (
        21,
        26,
        27,
        2,
    )
    assert numbers["lost"] < 24


def test_what_would_mean_something_else_is_refused(found):
    for ranks in RANKS:
        for said in found[ranks]["refusals"]:
            assert "pair_style lj/cut would add its forces" in said["pair"]
            assert "mass 15.4, which is that of no element" in said["mass"]
            assert "1 elements (H) for 2 atom types" in said["types"]
            assert "'Ox' is not a chemical symbol" in said["symbol"]
            assert "units real; AtomJet computes eV and Å" in said["units"]
            assert "atoms have no ids (atom_modify id no)" in said["ids"]
            assert "fix g (style gcmc) needs energies or forces of single pairs of atoms" in said["gcmc"]
            assert "compute h (style heat/flux) needs energies or forces of single pairs of atoms" in said["flux"]
            assert said["old"].startswith(
                "LAMMPS 20240829 is too old, or built without 'fix external'; take 20250722 or newer"
            )


@pytest.mark.parametrize("ranks", RANKS[1:])
def test_ranks_that_do_not_go_together(found, ranks):
    said = found[ranks]["refusals"]
    last = ranks - 1
    captured = (
        "backend 'fast_pytorch' of 'painn' cannot share a structure between processes, as it exchanges no rows with others; "
        "use 'general'"
    )
    assert said[last]["captured"].startswith(captured)
    assert all(row["captured"].startswith(f"rank {last} refused: {captured}") for row in said[:last])
    for name, words in (
        ("backend", f"backend fast_pytorch, precision float64; rank {last} has AtomJet "),
        ("other types", f"rank 0 has atom types H O; rank {last} has atom types O H; give all ranks the same"),
        ("charge", f"task omat, charge 1, spin 2; rank {last} has AtomJet "),
    ):
        (text,) = {row[name] for row in said}
        assert words in text


def lmp(ranks: int, *words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `atomjet-lmp` on the CPU."""
    return mpirun(ranks, "-c", START, *words, "--model", "organic-xtb", "--device", "cpu", cwd=cwd)


@pytest.mark.parametrize(
    ("name", "variables"),
    [
        ("in.water_npt", ("side", 2, "steps", 20)),
        ("in.polymer_melt", ("chains", 1, "steps", 5)),
        ("in.triclinic_crystal", ("n", 1, "steps", 20)),
    ],
)
def test_examples_run(tmp_path, name, variables):
    for path in EXAMPLES.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    given = [word for k in range(0, len(variables), 2) for word in ("-var", *variables[k : k + 2])]
    ran = lmp(2, "-in", name, *given, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "rank 1: organic-xtb on cpu" in ran.stdout
    assert "Loop time" in ran.stdout


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("killed", "Killed (signal 9)"),
        ("raises", "MemoryError: unable to allocate 12 GiB"),
        ("other pair style", "error: step 0, rank 0: pair_style has been set anew since AtomJet was attached"),
        (
            "bonds",
            "error: step 0, rank 0: bond_style harmonic has been set since AtomJet was attached and would add its",
        ),
        ("never looks again", "rank 0: atoms have moved by 0.2"),
        ("some atoms' images", "error: step 0, rank 0: some edges lack their reverse, so that forces would be wrong"),
    ],
)
def test_one_rank_that_ends_ends_all(how, words):
    ran = mpirun(2, HERE / "ends_by_rank.py", how)
    assert ran.returncode != 0
    said = ran.stdout + ran.stderr
    assert said.count(words) == 1
    assert said.count("error: ") == (how != "killed")


def test_ranks_of_different_versions(tmp_path):
    package = Path(atomjet.__file__).parent
    other = tmp_path / "other" / "atomjet"  # not where the command runs, which every rank would import from
    shutil.copytree(package, other, ignore=shutil.ignore_patterns("__pycache__"))
    text = (other / "version.py").read_text()
    (other / "version.py").write_text(text.replace(atomjet.__version__, "9.9"))
    paths = [os.environ.get("PYTHONPATH", "")]
    given = ["-in", str(EXAMPLES / "in.water_npt"), "--model", "organic-xtb", "--device", "cpu"]
    command = [sys.executable, "-c", START, *given, "-var", "steps", "0"]
    first = ["-n", "1", *command]
    second = ["-n", "1", "-env", "PYTHONPATH", os.pathsep.join([str(other.parent), *paths]), *command]
    ran = subprocess.run(
        [str(Path(sys.executable).parent / "mpirun"), *first, ":", *second],
        capture_output=True, text=True, timeout=300, cwd=tmp_path,
    )  # fmt: skip
    assert ran.returncode == 2
    said = re.findall("error: .*", ran.stderr)
    assert len(said) == 1
    assert said[0].startswith(f"error: rank 0 has AtomJet {atomjet.__version__}, model organic-xtb (weights ")
    assert "; rank 1 has AtomJet 9.9, model organic-xtb (weights " in said[0]


def test_one_rank_that_fails_ends_all_with_its_words(tmp_path):
    text = (EXAMPLES / "in.water_npt").read_text()
    near = (
        text.split("minimize")[0] + "set atom 1 x 3.0 y 3.0 z 3.0\nset atom 5 x 3.1 y 3.0 z 3.0\nfix 1 all nve\nrun 5\n"
    )
    (tmp_path / "in.near").write_text(near)
    ran = lmp(2, "-in", "in.near", cwd=tmp_path)
    assert ran.returncode != 0
    assert ran.stderr.count("error: step 0") == 1
    assert "atom 1 and atom 5 (O-H) are 0.100 Å apart" in ran.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("pair_style atomjet", "pair_style lj/cut 5"), "line 18: pair_style lj/cut adds its own forces"),
        (("pair_style atomjet", ""), "0 pair_style lines; write 'pair_style atomjet' once"),
        (("units metal", "units real"), "units real; AtomJet computes eV and Å"),
    ],
)
def test_inputs_that_are_refused(tmp_path, change, words):
    (tmp_path / "in.bad").write_text((EXAMPLES / "in.water_npt").read_text().replace(*change))
    ran = lmp(2, "-in", "in.bad", cwd=tmp_path)
    assert ran.returncode == 2
    assert words in ran.stderr
    assert ran.stderr.count("error: ") == 1


INPUT = "units metal\nread_data x\npair_style atomjet\npair_coeff * * O H\n"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("clear", "line 5: 'clear' takes the model's forces away; write an input for each system"),
        ("run_style respa 2 2", "line 5: run_style respa asks for forces of some levels only; use 'run_style verlet'"),
        ("neigh_modify delay 0 once yes", "line 5: neigh_modify once yes: ranks would lack atoms that come near later"),
        ("kspace_style pppm 1e-4", "line 5: kspace_style pppm would add its forces to the model's; take it out"),
        ("bond_style &\n harmonic", "line 5: bond_style harmonic would add its forces to the model's; take it out"),
        ("pair_style &\n hybrid/overlay zbl 1 2 atomjet", "line 5: pair_style hybrid/overlay adds its own forces"),
        ("fix 7 all gcmc 1 5 0 1 7 300 -1 0.1", "line 5: fix gcmc needs energies or forces of single pairs of atoms"),
        (
            "compute 1 all heat/flux a b c",
            "line 5: compute heat/flux needs energies or forces of single pairs of atoms",
        ),
    ],
)
def test_lines_that_would_be_silently_wrong(line, words):
    with pytest.raises(ConfigError) as caught:
        split(f"{INPUT}{line}\nrun 1\n")
    assert str(caught.value).startswith(words)


def test_a_line_that_goes_on_in_the_next():
    before, types, after = split(
        INPUT.replace("* * O H", "* * &  \n  O H") + "kspace_style none\nfix 1 all nve # & \nrun 1\n"
    )
    assert before == "units metal\nread_data x\n"
    assert types == ["O", "H"]
    assert after.split("\n") == ["", "", "kspace_style none", "fix 1 all nve # & ", "run 1", ""]


def test_options_and_input_that_contradict_each_other(tmp_path):
    ran = lmp(2, "-in", EXAMPLES / "in.water_npt", "--types", "H", "O", cwd=tmp_path)
    assert ran.returncode == 2
    assert (
        ran.stderr.count("error: ") == ran.stderr.count("error: --types H O, but pair_coeff names O H; give one") == 1
    )


def test_a_wrong_option_is_said_once(tmp_path):
    ran = lmp(4, "-in", EXAMPLES / "in.water_npt", "--precision", "half", cwd=tmp_path)
    assert ran.returncode == 2
    assert ran.stderr.count("invalid choice: 'half'") == 1


@pytest.mark.parametrize(("name", "backend"), [("esen_mmax1", "general"), ("esen", "fast_pytorch")])
def test_several_ranks_take_the_fastest_backend_that_serves_the_model(name, backend):
    model = HERE.parents[2] / "tests/models/escn_md/golden" / f"{name}.pt"
    options = argparse.Namespace(model=model, precision="default", task="omol", charge=None, spin=None, backend=None)
    assert load(options, "cpu", shared=True).backend == backend


KERNELS = """\
units metal
atom_modify map yes
lattice custom 3.1 a1 1 0 0 a2 0 1 0 a3 0 0 1 basis 0.1 0.1 0.1 basis 0.4 0.2 0.1 basis 0.1 0.3 0.3
region box block 0 2 0 2 0 1
create_box 2 box
create_atoms 1 box basis 1 2
mass 1 1.008
mass 2 15.999
displace_atoms all random 0.1 0.1 0.1 7
neighbor 0.05 bin
pair_style atomjet
pair_coeff * * H O
velocity all create 300 4928 loop all
fix 1 all nve
timestep 0.0005
thermo_style custom step pe pxx pyy pxy
thermo 1
thermo_modify format float %.10g
dump 1 all custom 2 forces id fx fy fz
dump_modify 1 sort id format float %.8g
run 2
"""


def test_kernels_on_two_ranks(tmp_path):
    """`--backend fast_gpu` where Triton's interpreter serves, against the definition on one rank."""
    pytest.importorskip("triton")
    torch.manual_seed(0)
    model = PaiNN(PaiNNConfig(features=32, layers=2, num_radial=6, cutoff=2.8, elements=(1, 8)))
    tensor_file.write(tmp_path / "small.safetensors", model, {"name": "small"})
    (tmp_path / "in.water").write_text(KERNELS)
    thermo, forces = {}, {}
    for ranks, words in ((1, ("general", "float64")), (2, ("fast_gpu", "high")), (2, ("fast_gpu", "default"))):
        backend, precision = words
        options = ("-in", "in.water", "--model", "small.safetensors", "--device", "cpu", "--backend", backend)
        environment = os.environ | {"TRITON_INTERPRET": "1"}
        ran = mpirun(ranks, "-c", START, *options, "--precision", precision, cwd=tmp_path, env=environment)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert ran.stdout.count(f"backend {backend}") == ranks
        lines = re.findall(r"^ +[012] +(-?[\d.e+-]+) +(-?[\d.e+-]+) +(-?[\d.e+-]+) +(-?[\d.e+-]+)$", ran.stdout, re.M)
        thermo[words] = np.array(lines, float)
        forces[words] = np.loadtxt((tmp_path / "forces").read_text().split("ATOMS id fx fy fz\n")[-1].splitlines())
    exact = thermo.pop(("general", "float64")), forces.pop(("general", "float64"))
    assert exact[0].shape == (3, 4)
    assert exact[1].shape == (12, 4)
    for words, bound in ((("fast_gpu", "high"), 1e-5), (("fast_gpu", "default"), 5e-3)):
        pairs = [(thermo[words][:, part], exact[0][:, part]) for part in (slice(0, 1), slice(1, 4))]  # energy, pressure
        for found, wanted in [*pairs, (forces[words][:, 1:], exact[1][:, 1:])]:
            assert np.linalg.norm(found - wanted) < bound * np.linalg.norm(wanted), words


def test_half_precision_travels():
    """MPI knows no such type."""
    rows = torch.randn(5, 3, 2).half()
    got = MpiTransport(MPI.COMM_WORLD).all_to_all(rows, [5], [5])
    assert got.dtype == torch.float16
    assert torch.equal(got, rows)
