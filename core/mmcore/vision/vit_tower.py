"""What the vision transformers that language models read share: their sizes, and which hidden state is read."""

from dataclasses import dataclass

from mmcore.errors import RecipeError


@dataclass(frozen=True, kw_only=True, slots=True)
class VitTower:
    """Sizes of a vision transformer, and the hidden state that is read of it."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    image_size: int
    """Side of the picture, pixels."""
    patch_size: int = 14
    select_layer: int = -2
    """Which hidden state is read; counted from the end when negative."""

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads:
            raise RecipeError(f"tower: {self.hidden_size} channels cannot be cut into {self.num_heads} heads")
        self.state(self.select_layer)

    @property
    def channels(self) -> int:
        """Of one image token."""
        return self.hidden_size

    @property
    def grid(self) -> int:
        """Patches along one side; what is left of the picture at its lower and right edge is not seen."""
        return self.image_size // self.patch_size

    def state(self, layer: int) -> int:
        """The number of a hidden state counted from either end: 0 for the embeddings, i for the output of layer i.

        Raises:
            RecipeError: there is none.
        """
        if not -self.num_layers - 1 <= layer <= self.num_layers:
            raise RecipeError(f"tower: there is no hidden state {layer} of {self.num_layers} layers")
        return layer if layer >= 0 else self.num_layers + 1 + layer
