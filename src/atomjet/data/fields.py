"""The fields of a `System` one by one: tensors from whatever was given, whole numbers, cells that span their directions, copies
that autograd takes.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from atomjet.errors import StructureError

Record = TypeVar("Record", bound=Any)

SINGULAR_CELL = 1e-6
"""Smallest volume of the periodic cell vectors relative to the product of their lengths: below it they are dependent."""


def tensor_of(name: str, value: Any) -> Tensor:
    """A field as a tensor: one that is given stays itself, anything else is copied, Python's numbers in float64.

    Raises:
        StructureError: not an array of real numbers, or, for pbc, of truth values.
    """
    tensor = value
    if not isinstance(value, Tensor):
        try:
            array = np.array(
                value.filled(np.nan) if isinstance(value, np.ma.MaskedArray) and value.mask.any() else value
            )
            if array.dtype.kind in "fO":  # float128 and lists of tensors too, which torch does not take
                array = array.astype(np.float32 if array.dtype.itemsize <= 4 else np.float64)
            tensor = torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
        except (TypeError, ValueError):
            raise StructureError(
                f"{name} is no array of numbers, but {type(value).__name__} {str(value)[:60]!r}; correct it"
            ) from None
    if tensor.is_complex():
        raise StructureError(f"{name} is complex; it must be real")
    if name == "pbc" and tensor.dtype != torch.bool and not bool(((tensor == 0) | (tensor == 1)).all()):
        raise StructureError(f"pbc is {tensor.tolist()}; it must be True or False for each direction")
    return tensor


def check_whole(name: str, tensor: Tensor) -> None:
    """Refuse what would be cut off to whole numbers."""
    if tensor.dtype == torch.bool:
        raise StructureError(f"{name} is True or False; it must be whole numbers")
    if tensor.is_floating_point():
        bad = ~(tensor == tensor.round()) | (tensor.abs() > 2**53)
        if bool(bad.any()):
            place = int(bad.flatten().nonzero()[0])
            raise StructureError(f"{name}[{place}] is {float(tensor.flatten()[place]):g}; it must be a whole number")


def number_of_structures(cell: Any, pbc: Any, system_index: Tensor | None) -> int:
    """S, as the cells say it, or the periodic directions, or the structures of atoms; 1 where none of them was given.

    Raises:
        StructureError: cells that are no (3, 3), or a structure's number beyond the number of atoms.
    """
    if cell is not None:
        shape = tuple(tensor_of("cell", cell).shape)
        if shape[-2:] != (3, 3) or len(shape) > 3:
            raise StructureError(
                f"cell has shape {shape}; it must be (3, 3), rows the cell vectors, or one for each structure"
            )
        return shape[0] if len(shape) == 3 else 1
    if pbc is not None and (directions := tensor_of("pbc", pbc)).ndim == 2:
        return directions.shape[0]
    if system_index is None:
        return 1
    last = int(system_index.max()) if len(system_index) else -1
    if last > len(system_index):
        raise StructureError(
            f"system_index says structure {last}, but there are {len(system_index)} atoms; number them from 0, without gaps"
        )
    return last + 1


def first_bad_cell(cell: Tensor, pbc: Tensor) -> tuple[int, str] | None:
    """The first structure whose periodic cell vectors are not finite or not independent, and which of the two; None for none.

    Args:
        cell: (S, 3, 3) Å, rows.
        pbc: (S, 3) bool.
    """
    finite = torch.isfinite(cell).flatten(1).all(1)
    lengths = torch.linalg.vector_norm(cell, dim=2)
    # Directions that are not periodic are filled with unit vectors orthogonal to the rest through the Gram matrix.
    unit = cell / lengths.clamp(min=1e-30)[:, :, None]
    gram = torch.where(
        pbc[:, :, None] & pbc[:, None, :],
        unit @ unit.transpose(1, 2),
        torch.eye(3, dtype=cell.dtype, device=cell.device),
    )
    volume = torch.linalg.det(torch.nan_to_num(gram)).clamp(min=0).sqrt()
    short = (pbc & (lengths < SINGULAR_CELL)).any(1)
    bad = ~finite | short | (volume < SINGULAR_CELL)
    if not bool(bad.any()):
        return None
    structure = int(bad.nonzero()[0])
    return structure, "does not span them" if bool(finite[structure]) else "is not finite"


def recordable(record: Record) -> Record:
    """The `System` or `Graph`, its tensors copied that were made under `torch.inference_mode()`: autograd saves no such tensor."""
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    made = {name: value for name, value in values.items() if isinstance(value, Tensor) and value.is_inference()}
    return replace(record, **{name: value.clone() for name, value in made.items()}) if made else record
