"""UMA, eSEN and other eSCN-MD checkpoints of fairchem, as models of ours.

eSEN is UMA without experts: one linear map serves every system where UMA mixes several. It may have no embedding of the dataset.

What a checkpoint asks for beyond what is written here is refused by name, never guessed: options in `fairchem_config`, tasks in
`fairchem_tasks`, tensors in `fairchem_tensors`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from atomjet.data.elements import SYMBOLS
from atomjet.models import tensor_file
from atomjet.models.escn_md import fairchem_zip
from atomjet.models.escn_md.fairchem_config import config_of
from atomjet.models.escn_md.fairchem_tensors import renamed_tensors
from atomjet.models.escn_md.general import EscnMd
from atomjet.models.skeleton import skeleton


def load(path: Path) -> tuple[EscnMd, dict[str, Any]]:
    """Read a checkpoint: the model, and a card with what the file says of itself.

    Raises:
        ModelFileError: damaged, not a fairchem inference checkpoint, another architecture, or an option that is not supported.
    """
    content = fairchem_zip.read(path)
    config = config_of(path, content)
    tensors = renamed_tensors(path, config, content)
    model = skeleton(lambda: EscnMd(config))
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tensor_file.check_tensors(path, tensors, expected)
    card = {
        "name": path.stem,
        "summary": f"{config.model_id or 'eSCN-MD'}, imported from a fairchem checkpoint",
        "elements": [SYMBOLS[number] for number in model.elements],
        "tasks": list(config.tasks),
        "limits": ["training data, errors and licence are not recorded in the checkpoint: ask whoever published it"],
    }
    return tensor_file.filled(model, tensors), card
