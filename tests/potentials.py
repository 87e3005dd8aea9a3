"""Potentials for tests: small, random, and rough enough that mistakes show."""

import torch

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
