"""Images of any size as the input of one model."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from snn_perception.errors import SpecError
from snn_perception.events.letterbox import Letterbox
from snn_perception.registry import Registry
from snn_perception.spec import ModelSpec
from snn_perception.types import U8, SensorSize

_MOST_SIZES = 4096  # kept; a set of photographs has some hundreds


class ImageInputs:
    """A model's representation, made anew for every size of image; several threads may use it at a time.

    Attributes:
        size: of the network's input.

    Raises:
        SpecError: if the model does not see images.
    """

    def __init__(self, representation: Any, spec: ModelSpec, registry: Registry) -> None:
        if not getattr(representation, "takes_images", False):
            raise SpecError(
                f"the data set holds images, and the model's representation '{spec.representation.name}' makes its "
                "input of events; choose a model for images"
            )
        self._ref, self._registry = spec.representation, registry
        self.size: SensorSize = getattr(representation, "output_size", spec.sensor_size)
        self._made: dict[SensorSize, Any] = {}

    def tensor(self, image: U8) -> Tensor:
        """Return an image uint8 [H, W, 3] as the input [T, C, H', W'] of the network.

        Raises:
            SpecError: if the model does not bring images to one size, and this one has another.
        """
        return self._of(_size_of(image))(image)  # type: ignore[no-any-return]

    def letterbox(self, size: SensorSize) -> Letterbox:
        """Return where an image of this size lies in the input."""
        return self._of(size).letterbox  # type: ignore[no-any-return]

    def _of(self, size: SensorSize) -> Any:
        made = self._made.get(size)
        if made is None:  # several threads may make the same at once; any of them will do
            if len(self._made) >= _MOST_SIZES:
                self._made.clear()
            made = self._registry.build("representation", self._ref.name, size, **self._ref.options)
            if made.output_size != self.size:
                raise SpecError(
                    f"representation '{self._ref.name}' leaves an image of {size} px as {made.output_size}, the model "
                    f"sees {self.size}; give the model a network_size"
                )
            self._made[size] = made
        return made


def _size_of(image: U8) -> SensorSize:
    return SensorSize(*image.shape[:2])
