"""Files of structures: whatever ASE reads, every molecule of an SDF, SMILES, standard input.

What a file says beyond what ASE makes of it becomes part of the structure (formal charges, masses of deuterium), or a remark on it
(`Frame.remarks`) where the structure is not what the file means. What is no structure is refused before it takes time or memory.
"""

from __future__ import annotations

import lzma
import re
import sys
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO, StringIO
from pathlib import Path
from typing import IO, Any, BinaryIO

import ase.io
import numpy as np
from ase import Atoms
from ase.data import atomic_masses, chemical_symbols
from ase.io.extxyz import _read_xyz_frame
from ase.io.formats import UnknownFileTypeError, filetype, ioformats, open_with_compression

from atomjet.adapters import molfile, pdb, smiles
from atomjet.adapters.cif import cif_remarks
from atomjet.adapters.structure_checks import gather_fixed_atoms, remarks_on
from atomjet.adapters.structure_output import is_parquet
from atomjet.adapters.text_conditions import set_conditions, unread_in_comment
from atomjet.errors import AtomJetError, StructureError
from atomjet.units import HEAVY_HYDROGEN

LONGEST_LINE = 1_000_000
"""Characters in a line of a text file: a hundred times what any structure needs; readers take hours over more."""

MOST_STREAMED = 1024**3
"""Bytes that are taken from a pipe: they are kept on the disk until they are read."""

MOLFILES = (".sdf", ".sd", ".mol")
SMILES_FILES = (".smi", ".smiles")

MOST_INFLATED = 100
"""Times its size to which a compressed file may inflate; text of numbers comes to four."""

SMALL = 100_000_000
"""Bytes that a compressed file may have inflated, however small it is."""

INFLATING = (EOFError, ValueError, zlib.error, lzma.LZMAError, OSError)
"""Errors of damaged compressed files."""

ONE_LINE = ("json", "db")
"""Text formats of ASE that need no line ends."""

PROPERTIES = re.compile(r"""Properties=["']?([^\s"']+)""")
"""What an extended XYZ file says of its columns: name, kind and width of each."""

CLAIMS = {
    "vasp": rb"\A(?:.*\n){5,6}[ \t]*((?:\d+[ \t]*)+)\r?\n",
    "gen": rb"\A\s*(\d+)",
    "cube": rb"\A(?:.*\n){2}\s*-?(\d+)",
    "gromacs": rb"\A.*\n\s*(\d+)",
    "lammps-data": rb"\n\s*(\d+)\s+atoms",
    "lammps-dump-text": rb"ITEM: NUMBER OF ATOMS\s+(\d+)",
    "xsf": rb"(?:PRIMCOORD|CONVCOORD)[^\n]*\n\s*(\d+)",
}
"""Where a format says how many atoms follow, which it may not say of a file with fewer lines."""


@dataclass(frozen=True)
class Frame:
    """One structure of a file.

    Attributes:
        number: its place in the file, from 0.
        name: what messages call it: the file, its place where there are several, its formula.
        atoms: None where it cannot be read.
        refusal: why it cannot.
        remarks: kind of remark -> why the structure may not be what the file means.
    """

    number: int
    name: str
    atoms: Atoms | None
    refusal: str = ""
    remarks: dict[str, str] = field(default_factory=dict)


Read = tuple[Atoms | None, str, dict[str, str]]
"""Structure, or why there is none, and remarks."""


def read_structures(source: str | Path, seed: int = 0) -> list[Atoms]:
    """Every structure of a file, of standard input ("-") or of a SMILES.

    Raises:
        StructureError: see `read_frames`; also where any of them cannot be read.
    """
    found = []
    for frame in read_frames(source, seed):
        if frame.atoms is None:
            raise StructureError(f"{frame.name}: {frame.refusal}")
        found.append(frame.atoms)
    return found


def read_frames(source: str | Path, seed: int = 0, note: Callable[[str], object] = str) -> list[Frame]:
    """Every structure of a file, those included that cannot be read where the format lets the others be.

    Args:
        source: file of any format that ASE reads, .sdf, .mol or .smi; "-" for standard input; or a SMILES, if no file is called so.
        seed: of geometries that are made from SMILES.
        note: is told what was left out because there is nothing in it.

    Raises:
        StructureError: no such file, a format that is not known, or a file without structures.
        ConfigError: a SMILES, but no RDKit.
    """
    path = Path(source)
    with tempfile.TemporaryDirectory(prefix="atomjet-") as folder:
        if str(source) == "-":
            name = "standard input"
            read = _read_file(_stored(sys.stdin.buffer, Path(folder), name), name, seed)
        elif path.is_fifo():
            name = str(source)
            with path.open("rb") as pipe:
                read = _read_file(_stored(pipe, Path(folder), name), name, seed)
        elif not path.exists():
            name = str(source)
            if not smiles.readable():
                raise StructureError(f"{name}: no such file; if it is a SMILES, it needs {smiles.RDKIT}")
            if not smiles.is_smiles(name):
                raise StructureError(f"{name}: no such file, and no SMILES")
            read = [_read_smiles(name, seed)]
        else:
            name = str(source)
            read = _read_file(path, name, seed)
    return _named(name, read, note)


def molecule_of(source: str | Path, frame: int, atoms: Atoms) -> Any:
    """RDKit's molecule of a structure that was read: bonds of a SMILES or a molfile as they stand there, others from distances.

    Args:
        source, frame: what `read_frames` was given, and which of its frames.
        atoms: that frame.

    Raises:
        StructureError: RDKit finds no bonds.
        ConfigError: there is no RDKit.
    """
    path, name = Path(source), f"{source} ({atoms.get_chemical_formula()})"
    if "smiles" in atoms.info and (not path.exists() or _ending(path) in SMILES_FILES):
        return smiles.from_smiles(atoms.info["smiles"])
    if path.is_file() and _ending(path) in MOLFILES:
        return smiles.from_molfile(list(molfile.split_records(_text(path, name)))[frame], name)
    return smiles.from_structure(atoms, name)


def _named(name: str, read: list[Read], note: Callable[[str], object]) -> list[Frame]:
    """Frames with names; empty ones at the end, such as a last PDB model without atoms, are none."""
    last = len(read)
    while last > 1 and (atoms := read[last - 1][0]) is not None and len(atoms) == 0:
        last -= 1
    if last < len(read):
        which = f"frame {last} has" if last == len(read) - 1 else f"frames {last} to {len(read) - 1} have"
        note(f"{name}: {which} no atoms; left out")
    read = read[:last]
    if not read or (len(read) == 1 and read[0][0] is not None and len(read[0][0]) == 0):
        raise StructureError(f"{name}: holds no structures")
    frames = []
    for number, (atoms, refusal, remarks) in enumerate(read):
        own = f"{name}, frame {number}" if len(read) > 1 else name
        if atoms is not None and not bool(((atoms.numbers >= 0) & (atoms.numbers < len(chemical_symbols))).all()):
            atom = int(np.argmax((atoms.numbers < 0) | (atoms.numbers >= len(chemical_symbols))))
            atoms, refusal = None, f"atom {atom}: atomic number {atoms.numbers[atom]} is that of no element; correct it"
        if atoms is not None:
            own += f" ({atoms.get_chemical_formula()})" if len(atoms) else ""
            remarks = remarks | remarks_on(atoms)
            gather_fixed_atoms(atoms)
        frames.append(Frame(number, own, atoms, refusal, remarks))
    return frames


def _read_file(path: Path, name: str, seed: int) -> list[Read]:
    if not path.is_file():
        raise StructureError(f"{name}: is a {'directory' if path.is_dir() else 'device'}, not a file of structures")
    ending = _ending(path)
    if ending in MOLFILES:
        return [_attempt(molfile.read_record, record) for record in molfile.split_records(_text(path, name))]
    if is_parquet(path):
        from atomjet.adapters import parquet  # pyarrow takes time to import

        return [(row.atoms, row.refusal, {}) for row in parquet.read_structures(path)]
    if ending in SMILES_FILES:
        lines = _text(path, name).split("\n")
        return [_read_smiles(line, seed) for line in lines if line.strip() and not line.startswith("#")]
    try:
        kind = filetype(str(path))
    except INFLATING as error:
        raise _not_inflated(name, error) from None
    except UnknownFileTypeError as error:
        raise StructureError(f"{name}: ASE does not know its format ({_gist(error)}); convert it to extxyz") from None
    if kind == "proteindatabank":
        return [_attempt(pdb.read_model, model) for model in pdb.split_models(_text(path, name))]
    if kind in ("extxyz", "xyz"):
        return _read_xyz(path, name)
    if kind not in ioformats:
        hint = "decompress it" if kind == "zst" else "convert it to extxyz"
        raise StructureError(f"{name}: ASE knows no format {kind!r}; {hint}")
    if kind == "cif" or (not ioformats[kind].isbinary and kind not in ONE_LINE):
        return _read_text(path, name, kind)
    return [(atoms, "", {}) for atoms in _by_ase(str(path), name, kind)]


def _attempt(read: Callable[[list[str]], tuple[Atoms, dict[str, str]]], lines: list[str]) -> Read:
    """A structure, or why it is refused."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            atoms, remarks = read(lines)
    except AtomJetError as error:
        return None, str(error), {}
    except Exception as error:  # a reader of ASE's raises whatever its parsing meets
        return None, f"ASE cannot read it ({_gist(error)})", {}
    return atoms, "", remarks


def _read_smiles(line: str, seed: int) -> Read:
    """The first word of a line as a molecule; the rest is its name."""
    word, _, title = line.strip().partition(" ") if " " in line.strip() else line.strip().partition("\t")
    try:
        atoms = smiles.embed(word, seed)
    except StructureError as error:
        return None, str(error), {}
    if title.strip():
        atoms.info["name"] = title.strip()
    return atoms, "", {}


def _read_text(path: Path, name: str, kind: str) -> list[Read]:
    """A text format of ASE's, refused where it says more atoms than the file has lines."""
    text = _text(path, name).encode()
    lines = text.count(b"\n") + 1
    if kind in CLAIMS:
        # The longest head that says a number, several dumps of one file included.
        for found in re.finditer(CLAIMS[kind], text):
            claimed = sum(int(word) for word in found.group(1)[:1000].split())
            if claimed > lines:
                raise StructureError(f"{name}: says {claimed} atoms, but has {lines} lines; it is cut off or damaged")
    if kind == "gaussian-in":  # ASE's reader takes no comma between charge and multiplicity
        text = re.sub(rb"(?m)^([ \t]*[+-]?\d+)[ \t]*,[ \t]*(\d+[ \t]*)$", rb"\1 \2", text)
    if not ioformats[kind].acceptsfd:
        return [(atoms, "", {}) for atoms in _by_ase(str(path), name, kind)]
    source = BytesIO(text) if ioformats[kind].isbinary else _TextFile(text.decode())
    source.name = str(path)  # type: ignore[union-attr]  # ASE's readers of OUTCAR, CONTCAR and others look beside the file
    found = _by_ase(source, name, kind)
    set_conditions(kind, text.decode(), found)
    remarks = cif_remarks(text.decode(), len(found)) if kind == "cif" else [{} for _ in found]
    return [(atoms, "", own) for atoms, own in zip(found, remarks, strict=True)]


class _TextFile(StringIO):
    """A text in memory under the name of the file that it came from."""

    name = ""


def _by_ase(source: str | IO[Any], name: str, kind: str) -> list[Atoms]:
    """What ASE reads, its errors as one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on oddities of formats, which mean nothing to whoever asked for energies
            frames = ase.io.read(source, index=":", format=kind, do_not_split_by_at_sign=True)
    except (Exception, MemoryError) as error:  # ASE's readers raise whatever their parsing meets
        raise StructureError(f"{name}: ASE cannot read it ({_gist(error)}); convert it to extxyz") from None
    return frames if isinstance(frames, list) else [frames]


def _read_xyz(path: Path, name: str) -> list[Read]:
    """(Extended) XYZ: counts checked against the lines that are there, D and T taken as hydrogen, bad frames told one by one."""
    text = _text(path, name)
    changed = "\ufffd" in text or path.stat().st_size != len(text)
    lines = StringIO(text).readlines()
    del text
    frames, end = [], 0
    try:
        for frame in _xyz_frames(lines):
            frames.append(frame)
            end = frame[1]
        rest = ""
    except StructureError as error:
        if not frames:
            raise StructureError(f"{name}: {error}") from None
        rest = str(error)
    heavy = [_take_heavy_hydrogen(lines, first, last) for first, last in frames]
    source = StringIO("".join(lines[:end])) if changed or rest or any(heavy) else str(path)
    results: list[Read] = []
    try:
        for first, _ in frames:
            _check_columns(lines, first)
        if __debug__:
            results = [(atoms, "", {}) for atoms in _by_ase(source, name, "extxyz")]
    except StructureError as error:
        if len(frames) < 2:
            raise StructureError(f"{name}: {str(error).removeprefix(f'{name}: ')}") from None
    if not results:
        results = [_xyz_frame(lines[first:last]) for first, last in frames]
    for (atoms, _, remarks), masses, (first, _) in zip(results, heavy, frames, strict=True):
        if atoms is not None:
            remarks |= unread_in_comment(lines[first + 1], atoms)
        if atoms is not None and masses and not atoms.has("masses"):
            atoms.set_array("masses", np.array([masses.get(k, atomic_masses[z]) for k, z in enumerate(atoms.numbers)]))
    return results + ([(None, rest, {})] if rest else [])


def _xyz_frame(lines: list[str]) -> Read:
    return _attempt(lambda own: (_parsed(own), {}), lines)


def _check_columns(lines: list[str], first: int) -> None:
    """Refuse a frame that says more columns than its first atom has, before ASE makes room for them."""
    properties = PROPERTIES.search(lines[first + 1])
    if properties and lines[first].strip() != "0":
        widths = [int(width) for width in properties.group(1).split(":")[2::3] if width.isdigit() and len(width) < 19]
        columns = len(lines[first + 2].split())
        if sum(widths) > columns:
            raise StructureError(f"Properties says {sum(widths)} columns, but the first atom has {columns}; correct it")


def _parsed(lines: list[str]) -> Atoms:
    _check_columns(lines, 0)
    if __debug__:
        return ase.io.read(StringIO("".join(lines)), format="extxyz")  # type: ignore[return-value]
    # ASE reads the number of atoms in an `assert`, which `python -O` leaves out.
    number = int(lines[0])
    return _read_xyz_frame(iter(lines[1:]), number, nvec=len(lines) - 2 - number)


def _xyz_frames(lines: list[str]) -> Iterator[tuple[int, int]]:
    """First line and end of each frame; empty lines at the end are none.

    Raises:
        StructureError: after the last whole frame: more atoms than lines follow, or no number of atoms.
    """
    length = len(lines)
    while length and not lines[length - 1].strip():
        length -= 1
    start = 0
    while start < length:
        words = lines[start].split()
        if not words or not words[0].isdigit() or len(words[0]) > 18:
            raise StructureError(
                f"line {start + 1}, {lines[start][:60].strip()!r}, is not the number of atoms of a frame; ASE cannot read it"
            )
        end = start + 2 + int(words[0])
        if end > len(lines):
            raise StructureError(
                f"says {words[0]} atoms at line {start + 1}, but the file ends after line {length}; it is cut off"
            )
        while end < length and lines[end].lstrip().startswith("VEC"):
            end += 1
        yield start, end
        start = end


def _take_heavy_hydrogen(lines: list[str], first: int, last: int) -> dict[int, float]:
    """Make D and T of a frame H; return their masses by atom."""
    column = 0
    properties = PROPERTIES.search(lines[first + 1])
    if properties:
        words = properties.group(1).split(":")
        widths = [int(width) if width.isdigit() else 1 for width in words[2::3]]
        if "species" not in words[0::3]:
            return {}
        column = sum(widths[: words[0::3].index("species")])
    found = {}
    for row in range(first + 2, last):
        line = lines[row]
        if "D" in line or "T" in line:
            words = line.split()
            if len(words) > column and words[column] in HEAVY_HYDROGEN:
                found[row - first - 2] = HEAVY_HYDROGEN[words[column]]
                words[column] = "H"
                lines[row] = " ".join(words) + "\n"
    return found


def _text(path: Path, name: str) -> str:
    """A text file, inflated, without byte-order mark, lines ended by a line feed.

    Raises:
        StructureError: a line is longer than any structure needs, or what is compressed is damaged or inflates too far.
    """
    parts, size, since, most = [], 0, 0, max(MOST_INFLATED * path.stat().st_size, SMALL)
    try:
        with open_with_compression(str(path), "rb") as file:
            while part := file.read(LONGEST_LINE):
                first, last = part.find(b"\n"), part.rfind(b"\n")
                if (since + (len(part) if first < 0 else first)) > LONGEST_LINE:
                    raise StructureError(
                        f"{name}: a line has more than {LONGEST_LINE} characters; it is no file of structures"
                    )
                since = since + len(part) if last < 0 else len(part) - last - 1
                parts.append(part)
                size += len(part)
                if size > most:
                    raise StructureError(
                        f"{name}: inflates to over {MOST_INFLATED} times its size; it is no file of structures"
                    )
    except INFLATING as error:
        raise _not_inflated(name, error) from None
    content = b"".join(parts)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = content.decode("utf-16", errors="replace")
    else:
        text = content.decode("utf-8-sig", errors="replace")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _not_inflated(name: str, error: BaseException) -> Exception:
    """What to say of a compressed file that is damaged; the system's own errors stay as they are."""
    if isinstance(error, AtomJetError) or (isinstance(error, OSError) and error.errno):
        return error  # type: ignore[return-value]
    return StructureError(f"{name}: cannot be inflated ({_gist(error)}); fetch it again")


def _stored(stream: BinaryIO, folder: Path, name: str) -> Path:
    """Keep what a pipe gives in a file with the ending that its first lines ask for."""
    raw = folder / "raw"
    with raw.open("wb") as file:
        left = MOST_STREAMED
        while chunk := stream.read(min(left, 1 << 20)):
            file.write(chunk)
            left -= len(chunk)
            if file.tell() <= 1 << 20 and not chunk.strip(b"\0"):
                raise StructureError(f"{name}: begins with {len(chunk)} zero bytes; it is no file of structures")
            if left == 0:
                raise StructureError(
                    f"{name}: gives more than {MOST_STREAMED} bytes; write them to a file and give its name"
                )
    if raw.stat().st_size == 0:
        raise StructureError(f"{name}: is empty")
    with raw.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    if compressed:
        packed = raw.rename(folder / "packed.gz")
        raw.write_bytes(_text(packed, name).encode())
    with raw.open("rb") as file:
        head = file.read(50_000)
    return raw.rename(folder / f"structures{_sniffed(head, raw, name)}")


def _sniffed(head: bytes, path: Path, name: str) -> str:
    """The ending of a file name that says the format of these first bytes."""
    text = head.decode("utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", errors="replace")
    lines = text.splitlines()
    if lines and lines[0].strip().isdigit():
        return ".xyz"
    if len(lines) > 3 and lines[3].rstrip().endswith(("V2000", "V3000")):
        return ".sdf"
    if any(line.startswith(("ATOM  ", "HETATM", "CRYST1", "HEADER", "MODEL ")) for line in lines):
        return ".pdb"
    if any(line.lower().startswith("data_") for line in lines):
        return ".cif"
    if len(lines) > 7 and _numbers(lines[1], 1) and all(_numbers(line, 3) for line in lines[2:5]):
        return ".poscar"
    try:
        kind = filetype(str(path))
        return f".{(ioformats[kind].extensions or [kind])[0]}"
    except (UnknownFileTypeError, KeyError):
        pass
    if lines and lines[0].split() and smiles.is_smiles(lines[0].split()[0]):
        return ".smi"
    raise StructureError(
        f"{name}: its format cannot be told; give xyz, extxyz, sdf, pdb, cif, POSCAR or SMILES, or a file"
        + ("" if smiles.readable() else f"; a SMILES needs {smiles.RDKIT}")
    )


def _numbers(line: str, count: int) -> bool:
    try:
        return len([float(word) for word in line.split()[:count]]) == count
    except ValueError:
        return False


def _ending(path: Path) -> str:
    """The ending that says the format, in lower case; not that of a compression."""
    endings = [ending.lower() for ending in path.suffixes]
    return next((ending for ending in reversed(endings) if ending not in (".gz", ".bz2", ".xz")), "")


def _gist(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
