"""From a file to a model: the first bytes say the format, and a format's importer is imported when such a file is read.

Our own files are read in steps, each of which refuses with one line: the header is checked against the file's size, the
configuration and the card against their schemas, the tensors' shapes against those the configuration asks for, all before a weight
is read or a model takes memory; then the values, and the SHA-256.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atomjet.errors import AtomJetError, ConfigError, ModelFileError, first_line
from atomjet.models import strict_json, tensor_file, torch_archive
from atomjet.models.card import card_from_json
from atomjet.models.contract import Model
from atomjet.models.ensemble import Ensemble, ensemble_card
from atomjet.models.families import FAMILIES
from atomjet.models.skeleton import skeleton
from atomjet.models.tensor_file import TensorFile, check_shapes, check_tensors, filled

READABLE = (tensor_file.FORMAT, tensor_file.WEIGHTS_ONLY_FORMAT)


def read(path: str | Path) -> tuple[Model, dict[str, Any]]:
    """Read a model and its card; of a fairchem checkpoint (.pt) too.

    Raises:
        ModelFileError: no such file, not safetensors (a pickle, say), damaged, or not what its configuration describes.
    """
    path = Path(path)
    if torch_archive.is_archive(path):
        from atomjet.models.escn_md import fairchem

        return _foreign(path, fairchem.load)
    file = tensor_file.opened(path)
    model, card = _described(file)
    expected = _shapes(model)
    check_shapes(path, file.shapes, expected)
    tensors = file.tensors()
    check_tensors(path, tensors, expected)
    file.check_digest(tensors)
    return filled(model, tensors), card


def read_ensemble(paths: Sequence[str | Path]) -> tuple[Model, dict[str, Any]]:
    """Read several models as one ensemble, and a card of them.

    Raises:
        ModelFileError: see `read`.
        ConfigError: fewer than two, models that are ensembles themselves, or that are too unlike to be members.
    """
    models, cards = zip(*map(read, paths), strict=True) if paths else ((), ())
    for path, model in zip(paths, models, strict=True):
        if isinstance(model, Ensemble):
            raise ConfigError(f"{path} is an ensemble itself, which cannot be a member of another; give its members")
    return Ensemble(models), ensemble_card(cards)


def convert(path: Path, config: Path | None, out: Path) -> None:
    """Write a foreign model, or one of an older format, as a model file of ours.

    Args:
        path: a fairchem checkpoint, a file of ours, or a SchNetPack state_dict.
        config: SchNetPack's hyperparameters as JSON; None for the other two.
        out: the model file.

    Raises:
        ModelFileError: see `read`.
        ConfigError: a state_dict without `config`; hyperparameters that are not supported.
    """
    if config is not None:
        from atomjet.models.painn import schnetpack

        _foreign(path, lambda path: schnetpack.convert(path, config, out))
        return
    if not torch_archive.is_archive(path) and tensor_file.opened(path).format is None:
        raise ConfigError(f"{path} has no hyperparameters of its own; give SchNetPack's as JSON with --config")
    model, card = read(path)
    tensor_file.write(out, model, card | {"name": out.stem} if torch_archive.is_archive(path) else card)


def whole_file_is_protected(path: Path) -> bool:
    """Whether a SHA-256 in the file covers its configuration and card too, beside the weights; True for what is no file of ours."""
    return torch_archive.is_archive(path) or tensor_file.opened(path).format != tensor_file.WEIGHTS_ONLY_FORMAT


def _described(file: TensorFile) -> tuple[Any, dict[str, Any]]:
    """The model that the metadata describe, without memory for its weights, and the card."""
    if file.format not in READABLE:
        what = (
            "is not an AtomJet model" if file.format is None else f"has format {strict_json.short(file.format, False)}"
        )
        raise ModelFileError(
            f"{file.path}: {what}; this version reads formats {' and '.join(sorted(READABLE))}. "
            "Foreign weights: see `atomjet convert`"
        )
    name = file.metadata.get("family", "")
    if name not in FAMILIES:
        raise ModelFileError(
            f"{file.path}: unknown model family {strict_json.short(name)}; this version knows {', '.join(FAMILIES)}; a family of "
            "one's own is entered in models.families.FAMILIES before its files are loaded"
        )
    part = "configuration"
    try:
        config = strict_json.validated(FAMILIES[name].config, file.metadata.get("config", ""))
        part = "card"
        card = card_from_json(file.metadata.get("card", "{}"))
    except ValueError as error:
        raise ModelFileError(
            f"{file.path}: unreadable {part}: {first_line(error)}; the file is damaged, fetch it again"
        ) from None
    return skeleton(lambda: FAMILIES[name].model(config)), card


def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _foreign(path: Path, importer: Any) -> Any:
    """Call an importer. Whatever error it ends with is a fault of the file, whose content anybody may have written."""
    try:
        return importer(path)
    except AtomJetError as error:
        raise type(error)(strict_json.short(error, quote=False, limit=600)) from None
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise ModelFileError(
            f"{path}: what it holds is not of the form that its makers write "
            f"({type(error).__name__}: {strict_json.short(error, quote=False)}); it is damaged or of another version"
        ) from None
