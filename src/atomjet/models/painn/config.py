"""The hyperparameters of a PaiNN."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from atomjet.data.elements import SYMBOLS


class PaiNNConfig(BaseModel):
    """Hyperparameters of PaiNN (Schütt, Unke, Gastegger, ICML 2021) as SchNetPack 2.x parametrises it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    features: int = Field(128, ge=2, le=4096, multiple_of=2, description="channels F of scalars and of vectors")
    layers: int = Field(3, ge=1, le=64, description="message passing layers")
    radial_basis: Literal["gaussian", "bessel"] = "gaussian"
    num_radial: int = Field(20, ge=2, le=4096, description="radial basis functions K")
    cutoff: float = Field(5.0, gt=0, le=100, description="Å")
    epsilon: float = Field(1e-8, gt=0, le=1, description="added under the square root of vector norms")
    zbl: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(le=2)]] | None = Field(
        None,
        description="nuclear repulsion, whole below and zero beyond these shares of the sum of two atoms' covalent radii",
    )
    shared_interactions: bool = Field(False, description="one set of layer weights for all layers")
    shared_filters: bool = Field(False, description="one set of filter weights for all layers")
    max_z: int = Field(100, ge=2, le=len(SYMBOLS), description="rows of the element embedding; atomic numbers below it")
    elements: tuple[int, ...] = Field((), description="atomic numbers the model was made for; empty: all below max_z")

    @field_validator("elements")
    @classmethod
    def _sorted(cls, elements: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(elements)))

    @field_validator("zbl")
    @classmethod
    def _ascending(cls, zbl: tuple[float, float] | None) -> tuple[float, float] | None:
        if zbl is not None and not zbl[0] < zbl[1]:
            raise ValueError(f"needs two shares, the smaller first, got {list(zbl)}")
        return zbl

    @model_serializer(mode="wrap")
    def _without_what_is_off(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Models without repulsion are written as before there was any: older versions read them."""
        written = serialize(self)
        if written.get("zbl", True) is None:
            del written["zbl"]
        return written

    @model_validator(mode="after")
    def _known(self) -> PaiNNConfig:
        for number in self.elements:
            if not 0 < number < self.max_z:
                raise ValueError(f"element {number} does not lie in 1 ... {self.max_z - 1} (below max_z)")
        return self
