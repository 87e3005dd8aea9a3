"""Charge and multiplicity that text files of other programs say, and that ASE's readers pass over."""

from __future__ import annotations

import re

from ase import Atoms

NUMBER = r"([+-]?\d{1,4}(?:\.\d*)?)"

CHARGE = {
    "turbomole": rf"^\s*(?:\$eht\b.*?\bcharge\s*=\s*|\$(?:charge|chrg)\s+){NUMBER}",
    "espresso-in": rf"^[^!\n]*\btot_charge\s*=\s*{NUMBER}",
    "gaussian-in": r"^[ \t]*([+-]?\d{1,4})[ \t]*[ \t,][ \t]*\d{1,4}[ \t]*$",
    "gaussian-out": rf"^\s*Charge\s*=\s*{NUMBER}\s+Multiplicity\s*=",
    "orca-output": rf"^\s*Total Charge\s+Charge\s+\.+\s*{NUMBER}",
    "nwchem-out": rf"^\s*(?:Charge|charge)\s*[:=]\s*{NUMBER}\s*$",
}
"""Where a format of ASE's says the charge of the whole structure, e."""

SPIN = {
    "gaussian-in": r"^[ \t]*[+-]?\d{1,4}[ \t]*[ \t,][ \t]*(\d{1,4})[ \t]*$",
    "gaussian-out": r"\bMultiplicity\s*=\s*(\d+)",
    "orca-output": r"^\s*Multiplicity\s+Mult\s+\.+\s*(\d+)",
    "nwchem-out": r"^\s*Spin multiplicity\s*:\s*(\d+)",
}
"""Where it says the multiplicity."""

UNPAIRED = {"turbomole": r"^\s*(?:\$eht\b.*?\bunpaired\s*=\s*|\$(?:spin|uhf)\s+)(\d+)"}
"""Where it says the number of unpaired electrons instead."""

IN_COMMENT = re.compile(r"\b(?:charge|chrg|q)\b[ \t]*[:=]?[ \t]*(?:([+-]?\d+)\b|(\d+)([+-]))", re.IGNORECASE)
TWO_NUMBERS = re.compile(r"\s*([+-]?\d)[ \t]+([1-9])\s*\Z")
"""Charge and multiplicity, as Gaussian has them in a line of their own."""


def set_conditions(file_format: str, text: str, frames: list[Atoms]) -> None:
    """Set `info["charge"]` and `info["spin"]` to what a text of one of ASE's formats says, where it says any."""
    charge, spin = (_found(table.get(file_format), text) for table in (CHARGE, SPIN))
    unpaired = _found(UNPAIRED.get(file_format), text)
    spin = unpaired + 1 if unpaired is not None else spin
    for atoms in frames:
        atoms.info |= {name: value for name, value in (("charge", charge), ("spin", spin)) if value is not None}


def _found(pattern: str | None, text: str) -> float | int | None:
    found = re.search(pattern, text, re.MULTILINE) if pattern else None
    if found is None:
        return None
    value = float(found.group(1))
    return int(value) if value.is_integer() else value


def unread_in_comment(comment: str, atoms: Atoms) -> dict[str, str]:
    """A remark where the comment of an XYZ frame speaks of a charge in another form than the one that is read, `charge=1`."""
    if "charge" in atoms.info:
        return {}
    said = IN_COMMENT.search(comment)
    if said and int(said[1] or said[2]):
        return {"unread charge": f"says {said[0].strip()[:40]!r}, which is not read; write charge= for it"}
    pair = TWO_NUMBERS.match(comment)
    if pair and (int(pair[1]), int(pair[2])) != (0, 1):
        return {
            "unread charge": f"has the comment {comment.strip()!r}; if that is charge and multiplicity, write charge={pair[1]} "
            f"spin={pair[2]}, for it is not read"
        }
    return {}
