"""Damaged structure files: each is read, or refused in one line, within seconds."""

import gzip
import random
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from atomjet.adapters import smiles
from atomjet.adapters.structure_files import read_frames
from atomjet.adapters.structure_output import write_structures
from atomjet.errors import AtomJetError

EACH = 120
"""Damaged copies of each file."""

SLOWEST = 5.0
"""Seconds of the processor: what others do meanwhile is not counted."""

SDF = """ethanoate
     made     3D

  4  3  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.0000 C   0  0  0  0  0  0
    1.2000    0.0000    0.0000 O   0  0  0  0  0  0
   -0.6000    1.0500    0.0000 O   0  0  0  0  0  0
   -0.6000   -0.9500    0.0000 H   0  0  0  0  0  0
  1  2  2  0
  1  3  1  0
  1  4  1  0
M  CHG  1   3  -1
M  END
> <energy>
1.0

$$$$
"""

SDF_V3000 = """methyl
     made     3D

  0  0  0     0  0            999 V3000
M  V30 BEGIN CTAB
M  V30 COUNTS 4 3 0 0 0
M  V30 BEGIN ATOM
M  V30 1 C 0 0 0 0 RAD=2
M  V30 2 H 1.0 0 0 0
M  V30 3 H -0.5 0.9 0 0 -
M  V30 MASS=2
M  V30 4 H -0.5 -0.9 0 0
M  V30 END ATOM
M  V30 BEGIN BOND
M  V30 1 1 1 2
M  V30 2 1 1 3
M  V30 3 1 1 4
M  V30 END BOND
M  V30 END CTAB
M  END
$$$$
"""

NUMBERS = (b"-1", b"0", b"1e999", b"nan", b"999999999999", b"1e-300", b"99999999999999999999999", b"0x10", b"--")


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One good file of each format."""
    folder = tmp_path_factory.mktemp("originals")
    water = molecule("H2O")
    water.info = {"note": 'a "quoted" = b', "charge": 0, "list": [1, 2]}
    water.calc = SinglePointCalculator(water, energy=-1.0, forces=np.zeros((3, 3)))
    frames = [water, molecule("CH3CH2OH"), bulk("C", cubic=True)]
    for name in ("a.extxyz", "a.traj", "a.json", "a.gen.xyz"):
        write(folder / name, frames, format="extxyz" if name.endswith("xyz") else None)
    for name in ("a.cif", "a.vasp", "a.gen", "a.xsf", "a.cube", "a.res"):
        write(folder / name, frames[2])
    write(folder / "a.pdb", frames[:1] * 2)
    texts = {"a.sdf": SDF * 2, "b.sdf": SDF_V3000, "a.smi": "CCO ethanol\n[NH4+]\nC#N\n", "a.mol": SDF.split("$$$$")[0]}
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "a.xyz.gz").write_bytes(gzip.compress((folder / "a.extxyz").read_bytes()))
    return sorted(folder.iterdir())


def flip_bits(content: bytes, draw: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(draw.choice((1, 2, 8))):
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def repeat_a_part(content: bytes, draw: random.Random) -> bytes:
    first, last = sorted(draw.randrange(len(content)) for _ in range(2))
    return content[:last] + content[first:last] * draw.choice((1, 3, 50)) + content[last:]


def leave_out_a_part(content: bytes, draw: random.Random) -> bytes:
    first = draw.randrange(len(content))
    return content[:first] + content[first + draw.randrange(1, 40) :]


def change_a_number(content: bytes, draw: random.Random) -> bytes:
    words = content.split(b" ")
    chosen = [k for k, word in enumerate(words) if any(48 <= byte < 58 for byte in word)] or [0]
    words[draw.choice(chosen)] = draw.choice(NUMBERS)
    return b" ".join(words)


def change_a_line(content: bytes, draw: random.Random) -> bytes:
    lines = content.split(b"\n")
    lines[draw.randrange(len(lines))] = draw.choice(
        (b"", b"\0" * 50, draw.choice(NUMBERS), b"=" * 300, b"[" * 2000, b"\xff\xfe")
    )
    return b"\n".join(lines)


DAMAGES = (flip_bits, cut, repeat_a_part, leave_out_a_part, change_a_number, change_a_line)


def test_damaged_files_are_read_or_refused(originals: list[Path], tmp_path: Path):
    draw, refused = random.Random(20), 0
    for original in originals:
        content = original.read_bytes()
        for k in range(EACH):
            damage: Callable[[bytes, random.Random], bytes] = DAMAGES[k % len(DAMAGES)]
            path = tmp_path / original.name
            path.write_bytes(damage(content, draw))
            refused += refused_in_time(path, f"{original.name}, damage {k}")
    assert refused > 100  # or nothing was damaged


def refused_in_time(path: Path, which: str) -> bool:
    """Whether the file, or a structure in it, is refused; in one line and in time."""
    started = time.process_time()
    try:
        frames = read_frames(path)
        lines = [frame.refusal for frame in frames if frame.atoms is None]
        for frame in frames:
            assert frame.atoms is None or len(frame.atoms.positions) == len(frame.atoms.numbers), which
    except AtomJetError as error:
        lines = [str(error)]
    except OSError as error:
        lines = [error.strerror or ""]
    assert time.process_time() - started < SLOWEST, which
    assert all(line and "\n" not in line and len(line) < 1000 for line in lines), which
    return bool(lines)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.xyz", b"1000000000000\n\nH 0 0 0\n", "says 1000000000000 atoms at line 1, but the file ends after line 3"),
        (
            "a.vasp",
            b"x\n1\n1 0 0\n0 1 0\n0 0 1\nH\n1000000000000\nDirect\n0 0 0\n",
            "says 1000000000000 atoms, but has",
        ),
        ("a.gen", b"1000000000 C\nH\n1 1 0 0 0\n", "says 1000000000 atoms, but has"),
        ("a.gro", b"x\n1000000000000\n    1WAT     OW    1   0.0   0.0   0.0\n 1 1 1\n", "says 1000000000000 atoms"),
        (
            "a.lammpsdump",
            b"ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n1000000000000\nITEM: BOX BOUNDS pp pp pp\n0 1\n0 1\n0 1\n"
            b"ITEM: ATOMS id type x y z\n1 1 0 0 0\n",
            "says 1000000000000 atoms",
        ),
        ("a.sdf", b"x\n\n\n999  0  0  0  0  0  0  0  0  0999 V2000\n", "says 999 atoms and 0 bonds, but ends after"),
        ("a.xyz", b'1\na="' + b"x " * 20_000_000 + b'"\nH 0 0 0\n', "a line has more than 1000000 characters"),
        ("a.cif", b"data_x\n_a " + b"x" * 40_000_000 + b"\n", "a line has more than 1000000 characters"),
        ("a.pdb", b"ATOM  " + b"x" * 40_000_000, "a line has more than 1000000 characters"),
        ("a.json", b"[" * 20_000_000, "ASE cannot read it"),
        ("a.xyz.gz", gzip.compress(b"1\n\nH 0 0 0\n" * 20_000_000, 1), "inflates to over 100 times its size"),
        ("a.smi", b"C" * 100_000, "is no SMILES that RDKit understands"),
        ("a.smi", b"(" * 5000, "is no SMILES that RDKit understands"),
        ("a.smi", b"C" * 2000, "can be embedded"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value[:4] else "",
)
def test_files_that_claim_or_take_too_much(tmp_path: Path, name: str, content: bytes, says: str):
    (tmp_path / name).write_bytes(content)
    started = time.process_time()
    try:
        frames = read_frames(tmp_path / name)
        refusal = " ".join(frame.refusal for frame in frames)
    except AtomJetError as error:
        refusal = str(error)
    assert says in refusal
    assert time.process_time() - started < SLOWEST


def test_any_info_is_written_as_it_reads_back(tmp_path: Path):
    draw = random.Random(3)
    letters = "ab \"'=\\\n\t[]{},_T1.é\u2028\r"
    for k in range(60):
        atoms = molecule("H2O")
        keys = ["".join(draw.choice(letters) for _ in range(draw.randrange(1, 6))) for _ in range(3)]
        texts = ["".join(draw.choice(letters) for _ in range(draw.randrange(0, 12))) for _ in range(6)]
        atoms.info = {f"k{j}": text for j, text in enumerate(texts)} | dict.fromkeys(keys, "odd key")
        write_structures(tmp_path / "a.extxyz", [atoms, atoms])
        frames = read_frames(tmp_path / "a.extxyz")
        assert len(frames) == 2
        for frame in frames:
            assert frame.atoms is not None
            assert {f"k{j}": frame.atoms.info.get(f"k{j}") for j in range(6)} == {
                f"k{j}": t for j, t in enumerate(texts)
            }, k


def test_smiles_of_any_letters_are_read_or_refused():
    draw = random.Random(4)
    for _ in range(300):
        text = "".join(draw.choice("CNOFc1n2()[]=#+-@H/\\.%*lBr3") for _ in range(draw.randrange(1, 25)))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                said = str(len(smiles.embed(text)))
            except AtomJetError as error:
                said = str(error)
        assert said != "0"
        assert "\n" not in said
