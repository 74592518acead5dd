"""What the configurations of all networks have in common."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Resize = Literal["nearest", "bilinear", "bicubic"]


class NetworkConfig(BaseModel):
    """Constructor arguments of a network as a preset gives them; unknown ones are refused.

    Attributes:
        architecture: the family of networks.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: str

    @property
    def channels(self) -> int:
        """Channels of what the network denoises."""
        return 3

    def arguments(self) -> dict[str, object]:
        """The constructor's arguments, as they come back from the JSON that diffusers stores."""
        values = self.model_dump(exclude={"architecture"})
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
