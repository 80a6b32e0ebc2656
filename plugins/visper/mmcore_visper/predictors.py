"""Embedding predictors: a small perceiver that reads a hidden state and predicts a teacher's features of the image.

Perceiver attention as in Flamingo (Alayrac et al. 2022) and IP-Adapter's resampler: a few queries attend to the tokens
and to themselves. VisPer-LM takes the queries from its task tokens (`TaskTokens`), which also stand in the sequence
after the image; models without task tokens and probes learn queries of their own.
"""

from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmcore_visper.config import TaskConfig, VisperConfig


class TaskTokens(nn.Module):
    """The learnable rows of each task: queries of its predictors, and after reduction tokens of the sequence.

    Args:
        config: which tasks, how many rows, how wide.
    """

    def __init__(self, config: VisperConfig) -> None:
        super().__init__()
        self.inserted = dict(config.task_tokens)
        for task in config.tasks:
            rows = config.num_task_tokens if task.name == "gen" else task.num_tokens
            self.register_parameter(task.name, nn.Parameter(torch.randn(rows, config.width)))

    def forward(self) -> tuple[dict[str, Float[Tensor, "rows width"]], dict[str, Float[Tensor, "1 queries width"]]]:
        """Per task, the rows that follow an image, and the queries of the predictors.

        Depth and seg insert the mean of each of `num_task_tokens` groups of consecutive rows; gen inserts its rows.
        """
        rows = {name: cast(Tensor, getattr(self, name)) for name in self.inserted}
        inserted = {
            name: value.unflatten(0, (self.inserted[name], -1)).mean(1) if len(value) != self.inserted[name] else value
            for name, value in rows.items()
        }
        # Copies: sharded engines take a parameter's memory back when its module returns.
        return {name: value.clone() for name, value in inserted.items()}, {n: v[None].clone() for n, v in rows.items()}


class PerceiverAttention(nn.Module):
    """Queries attend to tokens and to themselves.

    Args:
        dim: channels of both.
        dim_head: channels of one head.
        num_heads: heads.
    """

    def __init__(self, dim: int, dim_head: int, num_heads: int) -> None:
        super().__init__()
        inner = dim_head * num_heads
        self.num_heads = num_heads
        self.norm_tokens = nn.LayerNorm(dim)
        self.norm_queries = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)

    def forward(
        self,
        tokens: Float[Tensor, "batch tokens dim"],
        queries: Float[Tensor, "#batch queries dim"],
        allowed: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch queries dim"]:
        """What the queries read; queries common to the batch are projected once.

        Args:
            tokens: what is read.
            queries: who reads; one row for all of the batch, or one each.
            allowed: False where a token must not be seen; None sees all.
        """
        batch, num_queries = len(tokens), queries.shape[1]
        normed = self.norm_queries(queries)
        q = self._heads(self.to_q(normed)).expand(batch, -1, -1, -1)
        own = self.to_kv(normed).expand(batch, -1, -1)
        k, v = map(self._heads, torch.cat([self.to_kv(self.norm_tokens(tokens)), own], dim=1).chunk(2, dim=-1))
        mask = None if allowed is None else F.pad(allowed, (0, num_queries), value=True)[:, None, None]
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.to_out(read.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Perceiver attention and a feed-forward part, both residual."""

    def __init__(self, dim: int, dim_head: int, num_heads: int, ff_mult: int) -> None:
        super().__init__()
        self.attention = PerceiverAttention(dim, dim_head, num_heads)
        self.ffn = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, dim * ff_mult, bias=False),
            nn.GELU(),
            nn.Linear(dim * ff_mult, dim, bias=False),
        )

    def forward(self, tokens: Tensor, queries: Tensor, allowed: Tensor | None) -> Tensor:
        queries = queries + self.attention(tokens, queries, allowed)
        return queries + self.ffn(queries)


class Resampler(nn.Module):
    """Tokens of the language model in, a fixed number of rows out.

    Args:
        input_dim: channels of tokens and given queries.
        dim: channels inside.
        task: sizes of the blocks and of the output.
        learned: whether the queries are parameters of this module instead of given.
    """

    def __init__(self, input_dim: int, dim: int, task: TaskConfig, *, learned: bool) -> None:
        super().__init__()
        self.num_queries = task.num_tokens
        self.latents = nn.Parameter(torch.randn(1, task.num_tokens, dim) / dim**0.5) if learned else None
        self.proj_in = nn.Linear(input_dim, dim)
        self.blocks = nn.ModuleList(Block(dim, task.dim_head, task.num_heads, task.ff_mult) for _ in range(task.depth))
        self.proj_out = nn.Linear(dim, task.output_dim)
        self.norm_out = nn.LayerNorm(task.output_dim)

    def forward(
        self,
        tokens: Float[Tensor, "batch tokens width"],
        queries: Float[Tensor, "#batch given width"] | None = None,
        allowed: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch queries output_dim"]:
        """Predicted rows.

        Args:
            tokens: hidden states of one sample a row.
            queries: task tokens, one row for all or one each; tiled, or averaged and repeated, to the output's rows.
            allowed: False where a token must not be seen.
        """
        if self.latents is not None:
            latents = self.latents
        else:
            assert queries is not None, "a resampler without latents needs queries"
            latents = self.proj_in(spread(queries, self.num_queries))
        tokens = self.proj_in(tokens)
        for block in self.blocks:
            latents = block(tokens, latents, allowed)
        return self.norm_out(self.proj_out(latents))


def spread(queries: Float[Tensor, "batch given width"], wanted: int) -> Float[Tensor, "batch wanted width"]:
    """As many queries as wanted: as they are, tiled when that fits, else their mean repeated."""
    given = queries.shape[1]
    if given == wanted:
        return queries
    if wanted > 1 and wanted % given == 0:
        return queries.repeat(1, wanted // given, 1)
    return queries.mean(1, keepdim=True).expand(-1, wanted, -1)


class Predictor(nn.Module):
    """A resampler, and behind depth's three MLPs that imitate intermediate features of the teacher.

    Args:
        config: the language model's width and which parts there are.
        task: what is predicted.
        probe: learned queries and no MLPs.
    """

    def __init__(self, config: VisperConfig, task: TaskConfig, *, probe: bool = False) -> None:
        super().__init__()
        self.task = task
        learned = probe or not config.num_task_tokens
        # Depth predictors that take task tokens are as wide as the language model (published sizes).
        dim = config.width if task.name == "depth" and not learned else task.output_dim
        self.resampler = Resampler(config.width, dim, task, learned=learned)
        has_mlps = task.name == "depth" and config.use_intermediate_depth and not probe
        self.mlps = nn.ModuleList(_mlp(task.output_dim) for _ in range(3 if has_mlps else 0))

    def forward(self, tokens: Tensor, queries: Tensor | None = None, allowed: Tensor | None = None) -> Tensor:
        """The supervised prediction, in the shape of the target: see `TaskConfig.target_shape`.

        Of depth's outputs only the first is supervised, as published; the others are for pictures (`outputs`).
        """
        rows = self.resampler(tokens, queries, allowed)
        return self._shaped(self.mlps[0](rows) if self.mlps else rows)

    def outputs(self, tokens: Tensor, queries: Tensor | None = None, allowed: Tensor | None = None) -> list[Tensor]:
        """Every output: one, or for depth those of the three MLPs and what they read."""
        rows = self.resampler(tokens, queries, allowed)
        return [self._shaped(output) for output in [*(mlp(rows) for mlp in self.mlps), rows]]

    def _shaped(self, rows: Tensor) -> Tensor:
        if self.task.name != "seg":
            return rows
        return rows.transpose(1, 2).unflatten(2, (self.task.grid, self.task.grid))


def _mlp(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))


def build_predictors(config: VisperConfig) -> nn.ModuleDict:
    """Task -> one predictor for each of its layers."""
    return nn.ModuleDict(
        {task.name: nn.ModuleList(Predictor(config, task) for _ in task.layers) for task in config.tasks}
    )


class LogitScales(nn.Module):
    """The learnable temperature of each task's contrastive loss, shared by its layers; its logarithm starts at 2."""

    def __init__(self, config: VisperConfig) -> None:
        super().__init__()
        self.names = tuple(task.name for task in config.tasks)
        for name in self.names:
            # One entry instead of none: DeepSpeed cannot send a tensor without dimensions.
            self.register_parameter(name, nn.Parameter(torch.full((1,), 2.0)))

    def forward(self) -> Mapping[str, Float[Tensor, ""]]:
        """Factor on the similarities, at most 100."""
        return {name: getattr(self, name)[0].exp().clamp(max=100) for name in self.names}
