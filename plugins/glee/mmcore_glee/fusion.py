"""Early fusion: pixels and text look at one another before the pixel decoder (GLIP's bi-directional attention).

Both sides share the queries and keys, so the scores of one side are the transposed scores of the other. Published GLEE
passes a text mask that has no effect (it adds the same constant to every score); padding tokens of expressions
take part like words, and so they do here: nothing is masked. Its clamp at ±50000 is never reached.

In a training step only the visual side is needed: the fused text is not read by anything behind the pixel decoder.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class BiAttention(nn.Module):
    """Attention of pixels over text and of text over pixels with one set of scores.

    Args:
        dim: channels of both inputs.
        embed_dim: channels of queries, keys and values.
        num_heads: attention heads.
        dropout: on the probabilities of both directions, while training.
    """

    def __init__(self, dim: int, embed_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query = nn.Linear(dim, embed_dim)
        self.key = nn.Linear(dim, embed_dim)
        self.visual_value = nn.Linear(dim, embed_dim)
        self.text_value = nn.Linear(dim, embed_dim)
        self.visual_out = nn.Linear(embed_dim, dim)
        self.text_out = nn.Linear(embed_dim, dim)
        for layer in self.children():
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def from_text(
        self, visual: Float[Tensor, "batch pixels dim"], text: Float[Tensor, "batch tokens dim"]
    ) -> Float[Tensor, "batch pixels dim"]:
        """What the text tells every pixel."""
        if self.training and self.dropout and visual.device.type == "cpu":
            return self._folded(visual, text)
        return self.visual_out(self._attend(self.query(visual), self.key(text), self.text_value(text)))

    def _folded(
        self, visual: Float[Tensor, "batch pixels dim"], text: Float[Tensor, "batch tokens dim"]
    ) -> Float[Tensor, "batch pixels dim"]:
        """The same where dropout leaves torch no fused kernel, so that the scores have to be written out anyway.

        There are few tokens and many pixels, and a head has as many channels as a pixel: the query's projection is
        taken to the keys and the output's to the values, and pixels meet scores at once. That spares two products with
        `embed_dim` channels for every pixel, and what they would keep for the backward pass.
        """
        heads = (self.num_heads, -1)
        key = self.key(text).unflatten(-1, heads)
        key = key * key.shape[-1] ** -0.5
        value = self.text_value(text).unflatten(-1, heads)
        to_scores = torch.einsum("bthd,hdc->bcht", key, self.query.weight.unflatten(0, heads)).flatten(2)
        offset = torch.einsum("bthd,hd->bht", key, self.query.bias.unflatten(0, heads)).flatten(1)[:, None]
        from_shares = torch.einsum("bthd,chd->bhtc", value, self.visual_out.weight.unflatten(1, heads)).flatten(1, 2)
        scores = torch.baddbmm(offset, visual, to_scores).unflatten(-1, (self.num_heads, -1))
        shares = F.dropout(scores.softmax(-1), self.dropout).flatten(2)
        return torch.baddbmm(self.visual_out.bias.to(shares.dtype), shares, from_shares)

    def from_pixels(
        self, visual: Float[Tensor, "batch pixels dim"], text: Float[Tensor, "batch tokens dim"]
    ) -> Float[Tensor, "batch tokens dim"]:
        """What the pixels tell every text token."""
        return self.text_out(self._attend(self.key(text), self.query(visual), self.visual_value(visual)))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (query, key, value))
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout).transpose(1, 2).flatten(2)


class Fusion(nn.Module):
    """Normalise both sides and add to each what the other tells it, scaled per channel.

    Args:
        dim: channels of pixels and text.
        embed_dim: channels of the attention.
        num_heads: attention heads.
        dropout: on attention probabilities, while training.
    """

    def __init__(self, dim: int, embed_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.visual_norm = nn.LayerNorm(dim)
        self.text_norm = nn.LayerNorm(dim)
        self.attention = BiAttention(dim, embed_dim, num_heads, dropout)
        # The published initial value: one over the six layers GLIP fuses in, though GLEE fuses before the first only.
        self.visual_scale = nn.Parameter(torch.full((dim,), 1 / 6))
        self.text_scale = nn.Parameter(torch.full((dim,), 1 / 6))

    def forward(
        self, visual: Float[Tensor, "batch pixels dim"], text: Float[Tensor, "batch tokens dim"]
    ) -> Float[Tensor, "batch pixels dim"]:
        """Pixels that know the text."""
        visual, text = self.visual_norm(visual), self.text_norm(text)
        return visual + self.visual_scale * self.attention.from_text(visual, text)

    def fuse_text(
        self, visual: Float[Tensor, "batch pixels dim"], text: Float[Tensor, "batch tokens dim"]
    ) -> Float[Tensor, "batch tokens dim"]:
        """Text that knows the pixels, from the same (not yet fused) inputs as `forward`."""
        visual, text = self.visual_norm(visual), self.text_norm(text)
        return text + self.text_scale * self.attention.from_pixels(visual, text)
