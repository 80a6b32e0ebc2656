"""Query decoder (MaskDINO's): the best encoder pixels become queries, and layers refine their boxes.

Levels are read from coarse to fine (stride 64 first). The norm after the last layer is applied twice before the heads
and once before the boxes, as published. Boxes are predicted from the normed state and the previous reference with its
gradient; the reference itself moves by the state before the norm, without gradient.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmcore_glee.config import GleeConfig
from mmcore_glee.deformable import DeformableAttention, Shapes
from mmcore_glee.denoising import Denoising, LabelEmbeddings
from mmcore_glee.layers import FeedForward, Mlp, box_positions, inverse_sigmoid
from mmcore_glee.outputs import DecoderOutputs, QueryOutputs


@dataclass(slots=True)
class PromptTokens:
    """Tokens that join the queries in self-attention: an expression's words, or samples of a visual prompt."""

    levels: tuple[Float[Tensor, "batch tokens dim"], ...]
    """Decoder layer i uses entry i modulo their number."""
    valid: tuple[Bool[Tensor, "batch tokens"], ...]
    by_confidence: bool = False
    """Whether proposals are chosen by confidence instead of class (visual prompts)."""

    def repeated(self, rows: Int[Tensor, " frames"]) -> "PromptTokens":
        """The tokens of these rows, one for each frame: what a clip's first frame shows is looked for in all."""
        levels, valid = (tuple(level[rows] for level in levels) for levels in (self.levels, self.valid))
        return PromptTokens(levels, valid, self.by_confidence)


class SelfAttention(nn.Module):
    """Multi-head attention among queries; prompt tokens are looked at but look at nothing.

    In the published code prompt tokens are queries as well, whose results are cut off.

    Args:
        dim: channels.
        num_heads: attention heads.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        x: Float[Tensor, "batch queries dim"],
        position: Float[Tensor, "batch queries dim"],
        prompt: Float[Tensor, "batch tokens dim"] | None,
        visible: Bool[Tensor, "#batch #heads queries keys"] | None,
    ) -> Float[Tensor, "batch queries dim"]:
        """Attend.

        Args:
            x: content of the queries.
            position: added to queries and keys.
            prompt: further keys and values; their position is a copy of themselves without gradient.
            visible: which key each query may look at; None for all.
        """
        query, keys, values = x + position, x + position, x
        if prompt is not None:
            keys = torch.cat([keys, prompt + prompt.detach()], dim=1)
            values = torch.cat([values, prompt], dim=1)
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        parts = [F.linear(y, w, b) for y, w, b in zip((query, keys, values), weights, biases, strict=True)]
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class DecoderLayer(nn.Module):
    """Self-attention, deformable attention to the pixels, feed-forward; each followed by a norm.

    Args:
        config: sizes.
    """

    def __init__(self, config: GleeConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.self_attn = SelfAttention(dim, config.decoder_heads)
        self.norm_self = nn.LayerNorm(dim)
        heads, points = config.decoder_heads, config.decoder_points
        self.cross_attn = DeformableAttention(dim, config.num_levels, heads, points, triton=config.triton)
        self.norm_cross = nn.LayerNorm(dim)
        self.ffn = FeedForward(dim, config.decoder_ffn)
        self.norm_ffn = nn.LayerNorm(dim)
        nn.init.xavier_uniform_(self.ffn.linear1.weight)
        nn.init.xavier_uniform_(self.ffn.linear2.weight)

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        reference: Tensor,
        memory: Tensor,
        shapes: Shapes,
        prompt: Tensor | None,
        visible: Tensor | None,
    ) -> Tensor:
        x = self.norm_self(x + self.self_attn(x, position, prompt, visible))
        x = self.norm_cross(x + self.cross_attn(x + position, reference[:, :, None], memory, shapes))
        return self.norm_ffn(x + self.ffn(x))


class QueryDecoder(nn.Module):
    """Proposals from the encoder, decoder layers, and the heads for class, confidence, box and mask.

    Args:
        config: sizes.
    """

    def __init__(self, config: GleeConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.num_queries = config.num_queries
        self.initial_prediction, self.deep_supervision = config.initial_prediction, config.deep_supervision
        levels = range(config.num_levels if config.decoder_input_proj else 0)
        self.input_proj = nn.ModuleList(nn.Conv2d(dim, dim, 1) for _ in levels)
        """By level, from fine to coarse; none reads the pixels as they are."""
        self.two_stage, self.denoise_masks = config.two_stage, config.denoising == "seg"
        if self.two_stage:
            self.proposal_proj = nn.Linear(dim, dim)
            self.proposal_norm = nn.LayerNorm(dim)
        else:
            self.query_boxes = nn.Embedding(self.num_queries, 4)
            """Box logits of queries that no pixel proposes."""
        learned = config.learned_content or not self.two_stage
        self.query_content = nn.Embedding(self.num_queries, dim) if learned else None
        self.label_embed = LabelEmbeddings(dim)
        self.reference_mlp = Mlp(2 * dim, dim, dim, 2)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(dim)
        self.class_proj = nn.Parameter(torch.rand(dim, dim))
        self.confidence_mlp = Mlp(dim, dim, 1, 2)
        self.box_mlp = Mlp(dim, dim, 4, 3)
        self.mask_mlp = Mlp(dim, dim, config.mask_dim, 3)
        for parameter in self.box_mlp.layers[-1].parameters():
            nn.init.zeros_(parameter)
        for layer in self.reference_mlp.layers:
            nn.init.xavier_uniform_(layer.get_parameter("weight"))
        if not config.published_init:
            # States and texts have norm √dim, so that logits start around a tenth instead of drowning the other losses.
            nn.init.normal_(self.class_proj, std=0.1 / dim)

    @torch.no_grad()
    def set_prior(self, text: Float[Tensor, " dim"], probability: float = 0.01, bias: float = 0.5) -> None:
        """Let every class start improbable, as focal loss wants it (Lin et al. 2017), though class scores have no bias.

        A normed state sums to zero over its channels, so a constant added by the norm's bias can be read off without
        looking at the state. The class projection answers it with the prior's logit, along what all texts share.
        Without this the states themselves learn to be that constant, all alike, and boxes cannot be told from them.

        Args:
            text: mean of the embeddings of many texts.
            probability: of any class for any query.
            bias: what the norm adds to every channel.
        """
        self.norm.bias.fill_(bias)
        logit = math.log(probability / (1 - probability))
        self.class_proj += logit / (bias * len(text)) * (text / text.square().sum())

    def forward(
        self,
        pixels: Float[Tensor, "batch pixels dim"],
        shapes: Shapes,
        mask_features: Float[Tensor, "batch mask_dim h w"],
        classes: Float[Tensor, "texts dim"],
        prompt: PromptTokens | None = None,
        denoising: Denoising | None = None,
        *,
        per_image: bool = False,
    ) -> DecoderOutputs:
        """Predictions of every layer while training, of the last one otherwise.

        Args:
            pixels: encoded pixels, levels from fine to coarse.
            shapes: size of each level.
            mask_features: what mask embeddings are compared with.
            classes: text embeddings that class scores are inner products with.
            prompt: tokens that join the queries.
            denoising: noised objects that stand before the queries.
            per_image: whether each image has its own single text instead of all texts.
        """
        # (dim, classes) or (images, dim, 1): class scores are one product with the hidden state.
        classifier = (classes @ self.class_proj.t()).t()
        classifier = classifier.t()[..., None] if per_image else classifier
        memory, shapes = _coarse_to_fine(self._projected(pixels, shapes), shapes)
        interm = None
        if self.two_stage:
            content, box_logits = self.propose(memory, shapes, classifier, by_confidence=_by_confidence(prompt))
            interm = self._heads(self.norm(content), box_logits.sigmoid(), classifier) if self.training else None
            content, box_logits = content.detach(), box_logits.detach()
        else:
            content, box_logits = memory[:, :0], self.query_boxes.weight.expand(len(memory), -1, -1)
        if self.query_content is not None:
            content = self.query_content.weight.expand(len(memory), -1, -1)
        slots = 0
        if denoising is not None:
            slots = denoising.num_slots
            content = torch.cat([denoising.content, content], dim=1)
            box_logits = torch.cat([denoising.box_logits, box_logits], dim=1)
        states, boxes = self._refine(content, box_logits.sigmoid(), memory, shapes, prompt, denoising)
        outputs = DecoderOutputs({}, mask_features, denoising_pad=slots, track_embed=states[-1][:, slots:])
        if not self.training:
            outputs.sets["final"] = self._heads(self.norm(states[-1]), boxes[-1], classifier)
            return outputs
        self._predict(outputs, [content, *states], [box_logits.sigmoid(), *boxes], classifier, slots)
        final = outputs.sets.pop("final")
        outputs.sets = {"final": final, **outputs.sets, **({} if interm is None else {"interm": interm})}
        outputs.denoising_groups = denoising.groups if denoising else 0
        return outputs

    def _projected(self, pixels: Float[Tensor, "batch pixels dim"], shapes: Shapes) -> Tensor:
        if not self.input_proj:
            return pixels
        levels = pixels.split([height * width for height, width in shapes], dim=1)
        matrices = [(conv.get_parameter("weight"), conv.get_parameter("bias")) for conv in self.input_proj]
        return torch.cat([F.linear(x, w.flatten(1), b) for x, (w, b) in zip(levels, matrices, strict=True)], dim=1)

    def _predict(
        self, outputs: DecoderOutputs, states: list[Tensor], boxes: list[Tensor], classifier: Tensor, slots: int
    ) -> None:
        """What all layers predict that have losses; the first state and boxes are those before any layer.

        The proposals were never normed, every later state was normed once by the decoder: all get one more norm.
        """
        first = 0 if self.initial_prediction else 1
        names = [*map(str, range(len(states) - 1 - first)), "final"]
        for name, state, box in zip(names, states[first:], boxes[first:], strict=True):
            if name != "final" and not self.deep_supervision:
                continue
            state = self.norm(state)
            outputs.sets[name] = self._heads(state[:, slots:], box[:, slots:], classifier)
            # As published, the first prediction of noised objects counts only beside proposals of the encoder.
            if slots and (self.two_stage or name != "0"):
                noised = state[:, :slots]
                embed = self.mask_mlp(noised) if self.denoise_masks else None
                outputs.denoising[name] = QueryOutputs(noised @ classifier, box[:, :slots], embed)

    def propose(
        self, memory: Float[Tensor, "batch pixels dim"], shapes: Shapes, classifier: Tensor, *, by_confidence: bool
    ) -> tuple[Float[Tensor, "batch queries dim"], Float[Tensor, "batch queries 4"]]:
        """Content and box logits of the pixels that score best for any class.

        Args:
            memory: encoded pixels, levels from coarse to fine.
            shapes: size of each level.
            classifier: from hidden state to class scores.
            by_confidence: choose by the confidence head instead.
        """
        logits, valid = proposals(shapes, memory.device)
        memory = memory.masked_fill(~valid[:, None], 0)
        with torch.no_grad():  # choosing has no gradient, so only the chosen pixels are computed with one
            state = self.proposal_norm(self.proposal_proj(memory))
            scores = self.confidence_mlp(state) if by_confidence else state @ classifier
            best = scores.amax(-1).topk(self.num_queries, dim=1).indices
        chosen = memory.gather(1, best[..., None].expand(-1, -1, memory.shape[-1]))
        content = self.proposal_norm(self.proposal_proj(chosen))
        return content, self.box_mlp(content) + logits[best]

    def _refine(
        self,
        content: Tensor,
        reference: Tensor,
        memory: Tensor,
        shapes: Shapes,
        prompt: PromptTokens | None,
        denoising: Denoising | None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Normed state and boxes after each layer."""
        states, boxes = [], []
        previous = reference
        for i, layer in enumerate(self.layers):
            tokens, visible = _visible(prompt, i, denoising, content)
            position = self.reference_mlp(box_positions(reference, content.shape[-1] // 2))
            content = layer(content, position, reference, memory, shapes, tokens, visible)
            moved = (self.box_mlp(content) + inverse_sigmoid(reference)).sigmoid()
            state = self.norm(content)
            boxes.append((self.box_mlp(state) + inverse_sigmoid(previous)).sigmoid())
            states.append(state)
            previous, reference = moved, moved.detach()
        return states, boxes

    def _heads(self, state: Tensor, boxes: Tensor, classifier: Tensor) -> QueryOutputs:
        return QueryOutputs(state @ classifier, boxes, self.mask_mlp(state), self.confidence_mlp(state))


def _by_confidence(prompt: PromptTokens | None) -> bool:
    return prompt is not None and prompt.by_confidence


def _visible(
    prompt: PromptTokens | None, layer: int, denoising: Denoising | None, content: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Prompt tokens of a layer, and which keys each query sees:

    keys:        denoising slots    queries    prompt tokens
    slots        own group          all        valid ones
    queries      none               all        valid ones
    """
    among = denoising.visible[None, None] if denoising is not None else None
    if prompt is None:
        return None, among
    tokens, valid = prompt.levels[layer % len(prompt.levels)], prompt.valid[layer % len(prompt.valid)]
    batch, queries = content.shape[:2]
    if among is None:
        among = torch.ones(1, 1, queries, queries, dtype=torch.bool, device=content.device)
    to_prompt = valid[:, None, None, :].expand(-1, -1, queries, -1)
    return tokens, torch.cat([among.expand(batch, -1, -1, -1), to_prompt], dim=-1)


def _coarse_to_fine(pixels: Tensor, shapes: Shapes) -> tuple[Tensor, Shapes]:
    levels = pixels.split([h * w for h, w in shapes], dim=1)
    return torch.cat(levels[::-1], dim=1), shapes[::-1]


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # kept results may be needed by a training step
def proposals(shapes: Shapes, device: torch.device) -> tuple[Float[Tensor, "pixels 4"], Bool[Tensor, " pixels"]]:
    """Box logits that stand for each pixel, and whether the pixel may become a query.

    A box is centred on its pixel; its side is 0.05 on the first (coarsest) level and doubles with each level, as
    published, so the finest has the largest boxes. Boxes that come within 0.01 of the border are infinite.

    Args:
        shapes: size of each level, coarsest first.
        device: where the result is needed.
    """
    levels = []
    for level, (height, width) in enumerate(shapes):
        y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height
        x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width
        side = torch.tensor(0.05 * 2.0**level, device=device)
        box = torch.broadcast_tensors(x[None, :], y[:, None], side, side)
        levels.append(torch.stack(box, dim=-1).flatten(0, 1))
    boxes = torch.cat(levels)
    valid = ((boxes > 0.01) & (boxes < 0.99)).all(-1)
    logits = torch.log(boxes / (1 - boxes)).masked_fill(~valid[:, None], float("inf"))
    return logits, valid
