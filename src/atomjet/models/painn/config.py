"""The hyperparameters of a PaiNN."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class PaiNNConfig(BaseModel):
    """Hyperparameters of PaiNN (Schütt, Unke, Gastegger, ICML 2021) as SchNetPack 2.x parametrises it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: int = Field(128, ge=2, multiple_of=2, description="channels F of scalars and of vectors")
    layers: int = Field(3, ge=1, description="message passing layers")
    radial_basis: Literal["gaussian", "bessel"] = "gaussian"
    num_radial: int = Field(20, ge=2, description="radial basis functions K")
    cutoff: float = Field(5.0, gt=0, description="Å")
    epsilon: float = Field(1e-8, gt=0, description="added under the square root of vector norms")
    shared_interactions: bool = Field(False, description="one set of layer weights for all layers")
    shared_filters: bool = Field(False, description="one set of filter weights for all layers")
    max_z: int = Field(100, ge=2, description="rows of the element embedding; atomic numbers below it")
    elements: tuple[int, ...] = Field((), description="atomic numbers the model was made for; empty: all below max_z")

    @field_validator("elements")
    @classmethod
    def _sorted(cls, elements: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(elements)))
