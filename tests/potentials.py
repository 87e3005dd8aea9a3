"""Potentials for tests: small, random, and rough enough that mistakes show."""

import torch

from atomjet.models.escn_md import EscnMd, EscnMdConfig
from atomjet.models.painn import PaiNN, PaiNNConfig


def random_painn(seed=0, features=16, layers=3, **config) -> PaiNN:
    """A PaiNN with random weights in float64, biases included, and reference energies."""
    generator = torch.Generator().manual_seed(seed)
    model = PaiNN(PaiNNConfig(features=features, layers=layers, **config)).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 1.0 if name == "embedding.weight" else parameter.shape[-1] ** -0.5
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        model.reference_energies.copy_(10 * torch.randn(len(model.reference_energies), generator=generator))
    return model


def random_escn_md(seed=0, channels=6, **config) -> EscnMd:
    """An eSCN-MD with random weights in float64 and reference energies."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {"hidden_channels": 4, "edge_channels": 6, "layers": 2, "experts": 2, "num_radial": 8}
    model = EscnMd(EscnMdConfig(channels=channels, **({"tasks": ("omol", "omat")} | sizes | config))).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if name.endswith("affine_weight") or (parameter.ndim == 1 and name.endswith(("1.weight", "4.weight"))):
                parameter.copy_(1 + 0.1 * noise)
            elif "embedding" in name:
                parameter.copy_(0.5 * noise)
            else:
                parameter.copy_(0.1 * noise if parameter.ndim == 1 else noise / parameter.shape[-1] ** 0.5)
        model.reference_energies.copy_(10 * torch.randn(model.reference_energies.shape, generator=generator))
        model.scales.copy_(1 + torch.rand(model.scales.shape, generator=generator))
    return model
