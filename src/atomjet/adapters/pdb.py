"""Protein data bank files: models one by one, the first location of atoms that have several, cells that mean none.

ASE parses the lines; what it takes literally (every alternate location as an atom of its own, the cell of 1 Å by which the format
says "no cell", a cell for the first model only) is put right in the lines before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import StringIO

import ase.io
import numpy as np
from ase import Atoms
from ase.data import atomic_masses, chemical_symbols

from atomjet.errors import StructureError
from atomjet.units import HEAVY_HYDROGEN

HEAD = ("CRYST1", "ORIGX")
ATOM = ("ATOM  ", "HETATM")

NO_CELL = 1.01
"""Å. A cell whose lengths are all at most this is the format's way to say that there is none."""


def split_models(text: str) -> Iterator[list[str]]:
    """The lines of each model, those on the cell before all of them; a file without `MODEL` is one."""
    head: list[str] = []
    model: list[str] = []
    opened = count = 0
    for line in text.split("\n"):
        if line.startswith(HEAD):
            head.append(line)
        elif line.startswith(("MODEL ", "END")):
            # "END" alone after the last ENDMDL closes the file, not a model.
            if model or opened:
                yield [*head, *model]
                count += 1
            model, opened = [], line.startswith("MODEL ")
        elif line.startswith(ATOM):
            model.append(line)
    if model or not count:
        yield [*head, *model]


def read_model(lines: list[str]) -> tuple[Atoms, dict[str, str]]:
    """One model, and what is odd about it."""
    remarks: dict[str, str] = {}
    kept = _first_locations(lines, remarks)
    atom_lines = [line for line in kept if line.startswith(ATOM)]
    if not atom_lines:
        return Atoms(), {}
    for place, line in enumerate(atom_lines):
        if line[76:78].strip() and _symbol(line).capitalize() not in {*chemical_symbols, *HEAVY_HYDROGEN}:
            raise StructureError(f"atom {place}: {line[76:78].strip()!r} is no element; correct columns 77 and 78")
    masses = {k: HEAVY_HYDROGEN[_symbol(line)] for k, line in enumerate(atom_lines) if _symbol(line) in HEAVY_HYDROGEN}
    text = "\n".join(_with_symbol(line) if line.startswith(ATOM) else line for line in kept) + "\nEND\n"
    atoms = ase.io.read(StringIO(text), index=0, format="proteindatabank")
    assert isinstance(atoms, Atoms)
    if masses:
        atoms.set_array("masses", np.array([masses.get(k, atomic_masses[z]) for k, z in enumerate(atoms.numbers)]))
    charges = [charge for line in atom_lines if (charge := _charge(line)) is not None]
    if charges:
        atoms.info["charge"] = sum(charges)
    group = next((line[55:66].strip() for line in kept if line.startswith("CRYST1")), "")
    lengths = atoms.cell.lengths()
    if atoms.pbc.any() and bool((lengths <= NO_CELL).all()):
        atoms.set_cell(np.zeros((3, 3)))
        atoms.set_pbc(False)
        remarks["dummy cell"] = "has the cell of 1 Å by which CRYST1 says that there is none; taken as not periodic"
    elif atoms.pbc.any() and group not in ("", "P 1", "P1"):
        remarks["symmetry"] = (
            f"is the asymmetric unit of space group {group}; it is computed alone in its cell, without the copies that "
            "symmetry makes"
        )
    return atoms, remarks


def _first_locations(lines: list[str], remarks: dict[str, str]) -> list[str]:
    """The lines without the second and further locations of an atom."""
    kept, first, left_out = [], {}, 0
    for line in lines:
        location = line[16:17].strip() if line.startswith(ATOM) else ""
        if location and first.setdefault((line[21:27], line[12:16]), location) != location:
            left_out += 1
        else:
            kept.append(line)
    if first:
        remarks["alternate locations"] = (
            f"has alternate locations of {len(first)} atom{'s' * (len(first) > 1)}; the first of each is taken, {left_out} left out"
        )
    return kept


def _symbol(line: str) -> str:
    """The element: of its columns, or by where the name stands, an element of one letter being in the second column."""
    symbol = line[76:78].strip().rstrip("+-0123456789")
    if symbol:
        return symbol
    name = line[12:16]
    if name[:1].isspace() or name[:1].isdigit():
        return name[1:2]
    # Hydrogen atoms with names of four characters begin a column early: no element has so long a name.
    return "H" if name[:1] == "H" and len(name.strip()) == 4 else ""


def _charge(line: str) -> int | None:
    """The formal charge of an atom, such as "2+" or "1-"; None where the line says none."""
    said = re.fullmatch(r"(\d)([+-])|([+-])(\d)", line[78:80])
    return None if said is None else int(f"{said[2] or said[3]}{said[1] or said[4]}")


def _with_symbol(line: str) -> str:
    symbol = _symbol(line)
    symbol = "H" if symbol in HEAVY_HYDROGEN else symbol
    return f"{line[:76]:76}{symbol:>2}" if symbol else line
