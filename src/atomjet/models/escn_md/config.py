"""The hyperparameters of an eSCN-MD model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from atomjet.data.elements import SYMBOLS


class EscnMdConfig(BaseModel):
    """Hyperparameters of eSCN-MD (the architecture of UMA), for models whose forces are the derivative of their energy."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    channels: int = Field(128, ge=1, le=4096, description="C, channels of every coefficient of an atom")
    hidden_channels: int = Field(128, ge=1, le=4096, description="H, channels between the two products of a layer")
    edge_channels: int = Field(
        128, ge=1, le=4096, description="width of the radial networks and of the element embeddings of an edge"
    )
    lmax: int = Field(2, ge=1, le=12, description="highest degree l")
    mmax: int = Field(2, ge=0, le=12, description="highest order m kept in the frame of an edge")
    layers: int = Field(4, ge=1, le=64)
    cutoff: float = Field(6.0, gt=0, le=100, description="Å")
    num_radial: int = Field(32, ge=2, le=4096, description="Gaussians")
    experts: int = Field(
        64, ge=0, le=4096, description="linear maps that are mixed for each system; 0: one for all, unmixed"
    )
    composition: Literal["none", "mean", "mean_with_zero"] = Field(
        "mean", description="whether the mixture depends on the elements; with_zero: the mean counts a row of zeros"
    )
    max_z: int = Field(
        100, ge=2, le=len(SYMBOLS), description="rows of the element embeddings; atomic numbers below it"
    )
    tasks: tuple[Annotated[str, Field(min_length=1, max_length=100)], ...] = Field(
        max_length=256,
        description="names of the datasets, each with a head, references and a scale, and an embedding if task_embedding",
    )
    task_embedding: bool = Field(True, description="whether a system's embedding depends on its task")
    charge_channels: tuple[int, int] = Field((0, 0), description="scalar channels [from, to) that sum to the charge")
    spin_channels: tuple[int, int] = Field(
        (0, 0), description="scalar channels [from, to) that sum to the spin minus 1"
    )
    single_atoms: bool = Field(True, description="whether isolated atoms were trained on")
    max_neighbors: int = Field(
        300,
        ge=0,
        description="neighbours of an atom above which the far ones do not count; 0: all do (`neighbor_limit.py`)",
    )
    model_id: str = Field("", max_length=200, description="what the makers call it")

    @model_validator(mode="after")
    def _consistent(self) -> EscnMdConfig:
        if self.mmax > self.lmax:
            raise ValueError(f"mmax {self.mmax} is above lmax {self.lmax}")
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ValueError("tasks must be given, each once")
        if not self.experts and self.composition != "none":
            raise ValueError(f"composition {self.composition!r} without experts to be mixed by it")
        for name in ("charge_channels", "spin_channels"):
            start, stop = getattr(self, name)
            if not 0 <= start <= stop <= self.channels:
                raise ValueError(f"{name} {start} ... {stop} do not lie in the {self.channels} channels")
        return self
