"""From an embedding to a mask: SAM's prompt encoder and mask decoder (Kirillov et al. 2023).

    an embedding, such as a [SEG]'s --> sparse prompt --+
    "no mask" vector + picture's map -> dense prompt ---+-> two-way transformer -> upscaling -> mask token · pixels

The parts are transformers', whose sums are SAM's when the block norms have eps 1e-5. Our forward runs the one mask
token for a single mask; the three others and the quality head stay for published files. Any number of masks goes
through at once, none included.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.models.sam import configuration_sam as hf
from transformers.models.sam.modeling_sam import SamMaskDecoder, SamPromptEncoder

from mmcore.vision.sam.config import SamConfig

NORM_EPS = 1e-5
"""Of the norms in the decoder's blocks; transformers' default is 1e-6."""


class PromptEncoder(SamPromptEncoder):
    """Where a place of the map is, and what stands for "no mask given"; SAM's other prompts are kept, not asked."""

    def __init__(self, config: SamConfig) -> None:
        super().__init__(_hf_config(config))
        self.grid = config.grid

    def forward(self) -> tuple[Float[Tensor, "1 channels grid grid"], Float[Tensor, "1 channels"]]:  # type: ignore[override]
        """Positions of the map, in the precision of the published Fourier matrix, and the "no mask" vector."""
        matrix = self.shared_embedding.positional_embedding
        steps = (torch.arange(self.grid, device=matrix.device, dtype=matrix.dtype) + 0.5) / self.grid
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        places = self.shared_embedding(torch.stack([x, y], -1))
        return places.permute(2, 0, 1)[None], self.no_mask_embed.weight


class MaskDecoder(SamMaskDecoder):
    """Masks of a quarter of the padded picture's side, one for each prompt."""

    def __init__(self, config: SamConfig) -> None:
        sizes = _hf_config(config).mask_decoder_config
        sizes._attn_implementation = "eager"  # six tokens: nothing to fuse, and fused kernels refuse a batch of none
        super().__init__(sizes)

    def forward(  # type: ignore[override]
        self,
        features: Float[Tensor, "images channels grid grid"],
        prompts: Float[Tensor, "masks channels"],
        images: Int[Tensor, " masks"],
        places: Float[Tensor, "1 channels grid grid"],
        no_mask: Float[Tensor, "1 channels"],
    ) -> Float[Tensor, "masks side side"]:
        """Logits of each prompt's mask.

        Args:
            features: what the image encoder said.
            prompts: one for each mask.
            images: picture of each mask.
            places: positions of the map, of the prompt encoder.
            no_mask: its "no mask" vector.
        """
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own.expand(len(prompts), -1, -1), prompts[:, None].to(own.dtype)], 1)
        maps = (features + no_mask[..., None, None].to(features.dtype)).index_select(0, images)
        found, seen = self.transformer(
            point_embeddings=tokens[:, None],
            image_embeddings=maps,
            image_positional_embeddings=places.to(maps.dtype).expand(len(prompts), -1, -1, -1),
            attention_similarity=None,  # type: ignore[arg-type]
        )
        seen = seen[:, 0].transpose(1, 2).unflatten(2, maps.shape[-2:])
        seen = self.activation(self.upscale_layer_norm(self.upscale_conv1(seen)))
        pixels = self.activation(self.upscale_conv2(seen))
        weights = self.output_hypernetworks_mlps[0](found[:, 0, 1])
        return (weights[:, None] @ pixels.flatten(2)).squeeze(1).unflatten(1, pixels.shape[-2:])


def unread(config: SamConfig) -> tuple[str, ...]:
    """Names of the decoder's parts that the mask of an embedding does not read."""
    return ("iou_prediction_head", *(f"output_hypernetworks_mlps.{n}" for n in range(1, config.num_multimask + 1)))


def _hf_config(config: SamConfig) -> Any:
    decoder = hf.SamMaskDecoderConfig(
        hidden_size=config.out_channels,
        mlp_dim=config.decoder_mlp,
        num_hidden_layers=config.decoder_layers,
        num_attention_heads=config.decoder_heads,
        num_multimask_outputs=config.num_multimask,
        iou_head_depth=config.iou_depth,
        iou_head_hidden_dim=config.iou_hidden,
        layer_norm_eps=NORM_EPS,
    )
    prompt = hf.SamPromptEncoderConfig(
        hidden_size=config.out_channels,
        image_size=config.image_size,
        patch_size=config.patch_size,
        mask_input_channels=config.mask_prompt_channels,
    )
    vision = hf.SamVisionConfig(num_pos_feats=config.out_channels // 2)
    return hf.SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
