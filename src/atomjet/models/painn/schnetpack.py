"""Import of PaiNN weights from SchNetPack 2.x: a state_dict and its hyperparameters, by SchNetPack's own names."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from atomjet.errors import ConfigError, ModelFileError
from atomjet.models import file
from atomjet.models.painn.config import PaiNNConfig
from atomjet.models.painn.general import PaiNN


class Hyperparameters(BaseModel):
    """What SchNetPack's PaiNN was built with; names and defaults are SchNetPack's."""

    model_config = ConfigDict(extra="forbid")

    n_atom_basis: int
    n_interactions: int
    radial_basis: Literal["gaussian", "bessel"] = "gaussian"
    n_rbf: int = 20
    cutoff: float = 5.0
    cutoff_fn: Literal["CosineCutoff"] = "CosineCutoff"
    activation: Literal["silu"] = "silu"
    shared_interactions: bool = False
    shared_filters: bool = False
    epsilon: float = 1e-8
    max_z: int = 100
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
    file.write(out, model, card)
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
    model = PaiNN(_config(path, hyper, state))
    tensors = _renamed(path, hyper, state, model)
    tensors["reference_energies"] = references
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    file.check_tensors(path, tensors, expected)
    model.to(tensors["embedding.weight"].dtype)
    model.load_state_dict(tensors)
    return file.frozen(model)


def _hyperparameters(path: Path) -> Hyperparameters:
    try:
        return Hyperparameters.model_validate_json(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give SchNetPack's hyperparameters as JSON") from None
    except (ValidationError, UnicodeDecodeError) as error:
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "JSON"
            known = ", ".join(Hyperparameters.model_fields)
            raise ConfigError(f"{path}: {where}: {first['msg']} (known names: {known})") from None
        raise ConfigError(f"{path}: not text; give SchNetPack's hyperparameters as JSON") from None


def _state(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return file.read_tensors(path)[1]
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file")
    try:
        # PyTorch's restricted unpickler: builds tensors and containers, refuses every other name, runs nothing.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle's protocol; whether it is accepted is what counts
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelFileError(
            f"{path}: holds more than tensors ({_refusal(error)}); "
            "save model.state_dict() as safetensors where SchNetPack is installed"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise ModelFileError(f"{path}: unreadable ({file.first_line(error)}); it is damaged or no state_dict") from None
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise ModelFileError(f"{path}: not a state_dict; save model.state_dict()")
    return content


def _refusal(error: Exception) -> str:
    """The name that the restricted unpickler refused."""
    words = [word for word in str(error).split() if "." in word and word[0].isalpha()]
    return next(
        (word for word in words if not word.startswith(("torch.serialization", "weights_only"))), "unknown objects"
    )


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
    cutoff = hyper.cutoff if stored is None else float(stored.flatten()[0])
    if abs(cutoff - hyper.cutoff) > 1e-5:
        raise ConfigError(f"{path}: cutoff {cutoff} Å in the weights, {hyper.cutoff} Å in the hyperparameters")
    return PaiNNConfig(
        features=hyper.n_atom_basis,
        layers=hyper.n_interactions,
        radial_basis=hyper.radial_basis,
        num_radial=hyper.n_rbf,
        cutoff=cutoff,
        epsilon=hyper.epsilon,
        shared_interactions=hyper.shared_interactions,
        shared_filters=hyper.shared_filters,
        max_z=hyper.max_z,
        elements=hyper.elements,
    )


def _renamed(path: Path, hyper: Hyperparameters, state: dict[str, Tensor], model: PaiNN) -> dict[str, Tensor]:
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
    for name, buffer in model.basis.named_buffers(prefix="basis"):
        tensors.setdefault(name, buffer)  # older exports leave the basis out: it follows from the hyperparameters
    return tensors
