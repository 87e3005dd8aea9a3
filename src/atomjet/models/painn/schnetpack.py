"""Import of PaiNN weights from SchNetPack 2.x: a state_dict and its hyperparameters, by SchNetPack's own names."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from atomjet.data.elements import SYMBOLS
from atomjet.errors import AtomJetError, ConfigError, ModelFileError
from atomjet.models import strict_json, tensor_file, torch_archive
from atomjet.models.inert_pickle import Pending
from atomjet.models.painn.config import PaiNNConfig
from atomjet.models.painn.general import PaiNN
from atomjet.models.skeleton import skeleton

MAX_JSON_BYTES = 1024**2


class Hyperparameters(BaseModel):
    """What SchNetPack's PaiNN was built with; names and defaults are SchNetPack's."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    n_atom_basis: int = Field(ge=2, le=4096, multiple_of=2)
    n_interactions: int = Field(ge=1, le=64)
    radial_basis: Literal["gaussian", "bessel"] = "gaussian"
    n_rbf: int = Field(20, ge=2, le=4096)
    cutoff: float = Field(5.0, gt=0, le=100)
    cutoff_fn: Literal["CosineCutoff"] = "CosineCutoff"
    activation: Literal["silu"] = "silu"
    shared_interactions: bool = False
    shared_filters: bool = False
    epsilon: float = Field(1e-8, gt=0, le=1)
    max_z: int = Field(100, ge=2, le=len(SYMBOLS))
    atomrefs: list[float] | dict[int, float] | None = Field(None, description="eV, by atomic number")
    mean: float | None = Field(None, description="eV per atom")
    elements: tuple[int, ...] = Field((), description="atomic numbers the weights were trained on; empty: not known")


def convert(path: str | Path, config: str | Path, out: str | Path) -> PaiNN:
    """Read a SchNetPack state_dict (.safetensors, or .pt without any code) and write an AtomJet model file.

    Raises:
        ModelFileError: unreadable weights, a pickle that holds more than tensors, missing, unknown or misshapen tensors.
        ConfigError: unreadable or unsupported hyperparameters.
    """
    model = load(Path(path), Path(config))
    card = {
        "name": Path(out).stem,
        "summary": "PaiNN imported from SchNetPack 2.x weights",
        "limits": ["training data, errors and elements are not recorded in the weights: ask whoever trained them"],
    }
    tensor_file.write(out, model, card)
    return model


def load(path: Path, config: Path) -> PaiNN:
    """Read a SchNetPack state_dict with its hyperparameters."""
    hyper = _hyperparameters(config)
    state = _state(path)
    state = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    refused = [name for name in state if "electronic_embeddings" in name]
    if refused:
        raise ModelFileError(f"{path}: tensor {refused[0]!r}: embeddings of charge and spin are not supported")
    references = _references(path, hyper, state)
    settings = _config(path, hyper, state)
    # Shapes first: the hyperparameters may ask for more than the weights, and for any amount of memory.
    model = skeleton(lambda: PaiNN(settings))
    tensors = _renamed(path, hyper, state, type(model.basis)(settings.num_radial, settings.cutoff))
    tensors["reference_energies"] = references
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tensor_file.check_tensors(path, tensors, expected)
    return tensor_file.filled(model, tensors)


def _hyperparameters(path: Path) -> Hyperparameters:
    remedy = "give SchNetPack's hyperparameters as JSON"
    try:
        if not path.is_file():
            raise ConfigError(f"{path}: no such file; {remedy}")
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ConfigError(f"{path}: {path.stat().st_size} bytes, more than {MAX_JSON_BYTES}; {remedy}")
        text = path.read_text("utf-8-sig")
        strict_json.parse(text)
        return Hyperparameters.model_validate_json(text)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; {remedy}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not text; {remedy}") from None
    except ValidationError as error:
        known = ", ".join(Hyperparameters.model_fields)
        raise ConfigError(f"{path}: {strict_json.problem(error)} (known names: {known})") from None
    except AtomJetError:
        raise
    except ValueError as error:
        raise ConfigError(f"{path}: {error}; {remedy}") from None


def _state(path: Path) -> dict[str, Tensor]:
    if not torch_archive.is_archive(path):
        if path.suffix != ".pt":
            return tensor_file.opened(path).tensors()
        what = "PyTorch did not write it, or long ago in another format" if path.is_file() else "no such file"
        raise ModelFileError(f"{path}: {what}; save model.state_dict() as safetensors where SchNetPack is installed")
    with torch_archive.opened(path) as archive:
        try:
            content: Any = archive.content({})
        except pickle.UnpicklingError as error:
            raise ModelFileError(
                f"{path}: holds more than tensors ({error}); "
                "save model.state_dict() as safetensors where SchNetPack is installed"
            ) from None
        content = content.get("state_dict", content) if isinstance(content, dict) else content
        if not isinstance(content, dict) or not all(isinstance(item, Pending) for item in content.values()):
            raise ModelFileError(f"{path}: not a state_dict; save model.state_dict()")
        return archive.tensors({str(name): item for name, item in content.items()})


def _references(path: Path, hyper: Hyperparameters, state: dict[str, Tensor]) -> Tensor:
    """Energies by atomic number, float64: single-atom references plus the mean per atom, which SchNetPack adds for every atom."""
    atomrefs: Any = hyper.atomrefs
    mean: Any = hyper.mean
    for name in [name for name in state if name.startswith("postprocessors.")]:
        tensor = state.pop(name)
        if name.endswith(".atomref") and atomrefs is None:
            atomrefs = tensor.double().flatten().tolist()
        elif name.endswith(".mean") and mean is None:
            mean = float(tensor.double().sum())
    references = torch.zeros(hyper.max_z, dtype=torch.float64)
    pairs = atomrefs.items() if isinstance(atomrefs, dict) else enumerate(atomrefs or [])
    for number, value in pairs:
        if 0 <= number < hyper.max_z:
            references[number] = value
        elif value:
            raise ConfigError(f"{path}: reference energy of atomic number {number}, beyond max_z {hyper.max_z}")
    return references + (mean or 0.0)


def _config(path: Path, hyper: Hyperparameters, state: dict[str, Tensor]) -> PaiNNConfig:
    # The cosine uses the buffer, a float32 rounding of the hyperparameter: take the same number, to agree to the last digit.
    stored = state.get("representation.cutoff_fn.cutoff")
    if stored is not None and stored.numel() != 1:
        raise ModelFileError(f"{path}: the cutoff in the weights has shape {tuple(stored.shape)}; expected one number")
    cutoff = hyper.cutoff if stored is None else float(stored)
    if not abs(cutoff - hyper.cutoff) <= 1e-5:
        raise ConfigError(f"{path}: cutoff {cutoff} Å in the weights, {hyper.cutoff} Å in the hyperparameters")
    settings = {
        "features": hyper.n_atom_basis,
        "layers": hyper.n_interactions,
        "num_radial": hyper.n_rbf,
        "cutoff": cutoff,
        **hyper.model_dump(
            include={"radial_basis", "epsilon", "shared_interactions", "shared_filters", "max_z", "elements"}
        ),
    }
    try:
        return PaiNNConfig(**settings)
    except ValidationError as error:
        raise ConfigError(f"{path}: {strict_json.problem(error)}") from None


def _renamed(path: Path, hyper: Hyperparameters, state: dict[str, Tensor], basis: nn.Module) -> dict[str, Tensor]:
    """SchNetPack's tensors under our names; layers that share their weights are stored once."""
    names = {
        "representation.embedding.weight": "embedding.weight",
        "representation.filter_net.weight": "filters.weight",
        "representation.filter_net.bias": "filters.bias",
        "representation.radial_basis.offsets": "basis.offsets",
        "representation.radial_basis.widths": "basis.widths",
        "representation.radial_basis.freqs": "basis.frequencies",
    }
    for part in ("weight", "bias"):
        for theirs, ours in ((0, 0), (1, 2)):
            names[f"output_modules.0.outnet.{theirs}.{part}"] = f"readout.{ours}.{part}"
            for layer in range(hyper.n_interactions):
                own = 0 if hyper.shared_interactions else layer
                interaction = f"representation.interactions.{layer}.interatomic_context_net.{theirs}.{part}"
                names[interaction] = f"interactions.{own}.context.{ours}.{part}"
                mixing = f"representation.mixing.{layer}.intraatomic_context_net.{theirs}.{part}"
                names[mixing] = f"mixings.{own}.context.{ours}.{part}"
                names[f"representation.mixing.{layer}.mu_channel_mix.weight"] = f"mixings.{own}.channel_mix.weight"
    state.pop("representation.cutoff_fn.cutoff", None)
    unknown = [name for name in state if name not in names]
    if unknown:
        raise ModelFileError(f"{path}: tensor {unknown[0]!r} belongs to no SchNetPack 2.x PaiNN with one energy output")
    tensors = {names[name]: tensor for name, tensor in state.items()}
    for name, buffer in basis.named_buffers(prefix="basis"):
        tensors.setdefault(name, buffer)  # older exports leave the basis out: it follows from the hyperparameters
    return tensors
