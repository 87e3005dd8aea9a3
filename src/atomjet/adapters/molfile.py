"""MDL molfiles and SDF (V2000 and V3000): every molecule, with its formal charge and its radicals.

After the "CTfile Formats" specification of BIOVIA. Charges, radicals and isotopes of the property lines replace those of the atom
lines, as it says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from ase import Atoms
from ase.data import atomic_masses, atomic_numbers

from atomjet.errors import StructureError
from atomjet.units import HEAVY_HYDROGEN

CHARGE_CODES = {1: 3, 2: 2, 3: 1, 5: -1, 6: -2, 7: -3}
"""Formal charges by their code in an atom line; 4 is a doublet radical."""

UNPAIRED = {0: 0, 1: 0, 2: 1, 3: 2}
"""Unpaired electrons by the multiplicity of `M  RAD`: none said, singlet, doublet, triplet."""

AROMATIC = 4
"""Type of a bond that counts one and a half."""

Remarks = dict[str, str]


@dataclass
class _Table:
    """What a connection table says; atoms counted from 0."""

    symbols: list[str] = field(default_factory=list)
    positions: list[tuple[float, float, float]] = field(default_factory=list)
    charges: dict[int, int] = field(default_factory=dict)
    radicals: dict[int, int] = field(default_factory=dict)
    isotopes: dict[int, int] = field(default_factory=dict)
    bonds: list[tuple[int, int, int]] = field(default_factory=list)


def split_records(text: str) -> Iterator[list[str]]:
    """The lines of each molecule of an SDF, or of a single molfile; empty lines at the end are none."""
    record: list[str] = []
    for line in text.split("\n"):
        if line.startswith("$$$$"):
            yield record
            record = []
        else:
            record.append(line)
    if any(line.strip() for line in record):
        yield record


def read_record(lines: list[str]) -> tuple[Atoms, Remarks]:
    """One molecule, with `info["charge"]`, `info["spin"]` and, where it has one, `info["name"]`; and what is odd about it.

    Raises:
        StructureError: no molfile, or one that ends early; says which line.
    """
    if len(lines) < 4:
        raise StructureError(
            f"has {len(lines)} lines; a molfile has a head of three, then the numbers of atoms and bonds"
        )
    table = _v3000(lines) if "V3000" in lines[3] else _v2000(lines)
    numbers = [_number(symbol, place) for place, symbol in enumerate(table.symbols)]
    atoms = Atoms(numbers, np.array(table.positions).reshape(-1, 3))
    isotopes = {2: HEAVY_HYDROGEN["D"], 3: HEAVY_HYDROGEN["T"]}
    masses = {k: HEAVY_HYDROGEN[symbol] for k, symbol in enumerate(table.symbols) if symbol in HEAVY_HYDROGEN}
    masses |= {k: isotopes.get(mass, mass) if numbers[k] == 1 else mass for k, mass in table.isotopes.items()}
    if masses:
        atoms.set_array("masses", np.array([masses.get(k, atomic_masses[z]) for k, z in enumerate(numbers)], float))
    remarks = _remarks(table, numbers, flat=lines[1][20:22] == "2D" or lines[1].rstrip().endswith("2D"))
    if not any(line.startswith("M  END") for line in lines):
        remarks["end"] = "has no `M  END`: it may be cut off, and lack charges"
    charge = sum(table.charges.values())
    unpaired = sum(UNPAIRED.get(radical, 0) for radical in table.radicals.values())
    odd = (sum(numbers) - charge) % 2
    if unpaired % 2 != odd:
        if table.radicals:
            remarks["radicals"] = (
                f"`M  RAD` says {unpaired} unpaired electrons of {sum(numbers) - charge}; taken as spin {1 + odd}"
            )
        unpaired = odd
    atoms.info.update(charge=charge, spin=1 + unpaired)
    if name := lines[0].strip():
        atoms.info["name"] = name
    return atoms, remarks


def _number(symbol: str, place: int) -> int:
    if symbol in HEAVY_HYDROGEN:
        return 1
    number = atomic_numbers.get(symbol.capitalize(), 0)
    if not number:
        raise StructureError(f"atom {place}: {symbol!r} is no element; replace it by one")
    return number


def _v2000(lines: list[str]) -> _Table:
    """Atoms, bonds and properties by columns; coordinates also where somebody separated them by blanks alone."""
    table = _Table()
    num_atoms, num_bonds = _integer(lines, 3, lines[3][0:3]), _integer(lines, 3, lines[3][3:6] or "0")
    if num_atoms < 0 or num_bonds < 0 or len(lines) < 4 + num_atoms + num_bonds:
        raise StructureError(
            f"says {num_atoms} atoms and {num_bonds} bonds, but ends after {len(lines)} lines; it is cut off"
        )
    for place in range(num_atoms):
        line = lines[4 + place]
        words = [line[0:10], line[10:20], line[20:30], line[31:34].strip(), line[34:36], line[36:39] or "0"]
        try:
            position = float(words[0]), float(words[1]), float(words[2])
        except ValueError:
            words = [*line.split(), "0", "0"]
            try:
                position = float(words[0]), float(words[1]), float(words[2])
            except (ValueError, IndexError):
                raise StructureError(f"line {5 + place} of it, {line[:60]!r}, is no atom") from None
        table.positions.append(position)
        table.symbols.append(words[3])
        code = int(words[5]) if words[5].strip().isdigit() else 0
        if code == 4:
            table.radicals[place] = 2
        elif code in CHARGE_CODES:
            table.charges[place] = CHARGE_CODES[code]
    for row in range(4 + num_atoms, 4 + num_atoms + num_bonds):
        first, second, kind = (_integer(lines, row, lines[row][k : k + 3]) for k in (0, 3, 6))
        table.bonds.append((first - 1, second - 1, kind))
    _properties(table, lines[4 + num_atoms + num_bonds :])
    return table


def _properties(table: _Table, lines: list[str]) -> None:
    """`M  CHG`, `M  RAD` and `M  ISO`; the first of charges or radicals makes those of the atom lines void."""
    found: dict[str, dict[int, int]] = {"CHG": {}, "RAD": {}, "ISO": {}}
    for line in lines:
        if line.startswith("M  END"):
            break
        if line.startswith("M  ") and line[3:6] in found:
            try:
                words = [int(word) for word in line[9:].split()]
                pairs = list(zip(words[0::2], words[1::2], strict=True))
            except ValueError:
                raise StructureError(f"{line[:60]!r} is no list of atoms and values") from None
            if line[6:9].strip().isdigit() and int(line[6:9]) != len(pairs):
                raise StructureError(f"{line[:60]!r} says {int(line[6:9])} values, but has {len(pairs)}; it is cut off")
            for atom, value in pairs:
                if not 1 <= atom <= len(table.symbols):
                    raise StructureError(f"{line[:60]!r} names atom {atom} of {len(table.symbols)}")
                found[line[3:6]][atom - 1] = value
    if found["CHG"] or found["RAD"]:
        table.charges, table.radicals = found["CHG"], found["RAD"]
    table.isotopes = found["ISO"]


def _v3000(lines: list[str]) -> _Table:
    """Free format: an atom is `index symbol x y z map KEY=value ...`."""
    table, block, places, said = _Table(), "", {}, ""
    for line in _joined(lines):
        words = line.split()
        if words[:1] in (["BEGIN"], ["END"]):
            block = words[1] if words[0] == "BEGIN" and len(words) > 1 else ""
        elif words[:1] == ["COUNTS"]:
            said = words[1] if len(words) > 1 else ""
        elif block == "ATOM":
            try:
                position = float(words[2]), float(words[3]), float(words[4])
            except (ValueError, IndexError):
                raise StructureError(f"{line[:60]!r} is no atom") from None
            place = places[words[0]] = len(places)
            table.symbols.append(words[1])
            table.positions.append(position)
            for word in words[6:]:
                key, _, value = word.partition("=")
                of = {"CHG": table.charges, "RAD": table.radicals, "MASS": table.isotopes}.get(key)
                if of is not None and value.lstrip("+-").isdigit():
                    of[place] = int(value)
        elif block == "BOND" and len(words) > 3 and words[2] in places and words[3] in places:
            table.bonds.append((places[words[2]], places[words[3]], int(words[1]) if words[1].isdigit() else 1))
    if said and said != str(len(places)):
        raise StructureError(f"says {said[:20]} atoms, but has {len(places)}; it is cut off or damaged")
    return table


def _joined(lines: list[str]) -> Iterator[str]:
    """What follows `M  V30`, lines that end in a hyphen joined with the next."""
    whole = ""
    for line in lines:
        if line.startswith("M  V30"):
            whole += line[6:].strip()
            if whole.endswith("-"):
                whole = whole[:-1]
            else:
                yield whole
                whole = ""


def _remarks(table: _Table, numbers: list[int], flat: bool) -> Remarks:
    remarks: Remarks = {}
    if flat:
        remarks["drawing"] = "the file says 2D: a drawing, not a geometry; embed it first (a .smi file is embedded)"
    if table.bonds:
        valence = np.zeros(len(numbers))
        for first, second, kind in table.bonds:
            if 0 <= first < len(numbers) and 0 <= second < len(numbers):
                valence[[first, second]] += 1.5 if kind == AROMATIC else kind
        for place, charge in table.charges.items():
            valence[place] += abs(charge)
        for place, radical in table.radicals.items():
            valence[place] += 2 if radical in (1, 3) else 1
        lacking = int(np.count_nonzero(valence[np.array(numbers) == 6] < 4))
        if lacking:
            remarks["hydrogens"] = (
                f"{lacking} carbon atoms have fewer than four bonds: hydrogen atoms are left out; add them"
            )
    return remarks


def _integer(lines: list[str], row: int, word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise StructureError(f"line {row + 1} of it, {lines[row][:60]!r}, does not say numbers of a molfile") from None
