"""Names of segment-anything's parts in published files, and ours (transformers').

    image_encoder.blocks.*          image_encoder.layers.*
    prompt_encoder.pe_layer.*       prompt_encoder.shared_embedding.*
    mask_decoder.transformer.*      mask_decoder.transformer.*, its norms as transformers counts them

A checkpoint of SAM alone has them without a prefix; a model that holds SAM writes one before them.
"""

from mmcore.weights.maps import Rule

STARTS = ("image_encoder.", "mask_decoder.", "prompt_encoder.")
"""Beginnings of names in a file of SAM alone."""
CONSTANTS = ("pixel_mean", "pixel_std")
"""Names in such a file that are no weights."""
ENCODER_NAMES = {
    "image_encoder.patch_embed.proj.*": "image_encoder.patch_embed.*",
    "image_encoder.blocks.*.mlp.lin1.*": "image_encoder.layers.*.lin1.*",
    "image_encoder.blocks.*.mlp.lin2.*": "image_encoder.layers.*.lin2.*",
    "image_encoder.blocks.*": "image_encoder.layers.*",
    "image_encoder.*": "image_encoder.*",
}
_PROMPT = {
    "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": (
        "prompt_encoder.shared_embedding.positional_embedding"
    ),
    "prompt_encoder.point_embeddings.*": "prompt_encoder.point_embed.*",
    **{
        f"prompt_encoder.mask_downscaling.{place}.*": f"prompt_encoder.mask_embed.{name}.*"
        for place, name in ((0, "conv1"), (1, "layer_norm1"), (3, "conv2"), (4, "layer_norm2"), (6, "conv3"))
    },
    "prompt_encoder.*": "prompt_encoder.*",
}
_DECODER = {
    **{f"transformer.layers.*.norm{n}.*": f"transformer.layers.*.layer_norm{n}.*" for n in range(1, 5)},
    "transformer.norm_final_attn.*": "transformer.layer_norm_final_attn.*",
    "output_upscaling.0.*": "upscale_conv1.*",
    "output_upscaling.1.*": "upscale_layer_norm.*",
    "output_upscaling.3.*": "upscale_conv2.*",
}


def sam_rules(published: str = "", ours: str = "sam.", *, iou_depth: int = 3) -> list[Rule]:
    """Names of segment-anything's parts behind a prefix, and ours; `iou_depth` layers make its quality head."""
    heads = _mlp("output_hypernetworks_mlps.*.", 3) | _mlp("iou_prediction_head.", iou_depth)
    decoder = {**_DECODER, **heads}
    names = {**ENCODER_NAMES, **_PROMPT, **{f"mask_decoder.{a}": f"mask_decoder.{b}" for a, b in decoder.items()}}
    names["mask_decoder.*"] = "mask_decoder.*"
    return [Rule(f"{published}{a}", f"{ours}{b}") for a, b in names.items()]


def _mlp(part: str, depth: int) -> dict[str, str]:
    """Layers of an MLP by number, and as transformers calls the first, the last and those between."""
    last = {f"{part}layers.{depth - 1}.*": f"{part}proj_out.*", f"{part}layers.0.*": f"{part}proj_in.*"}
    return last | {f"{part}layers.{n}.*": f"{part}layers.{n - 1}.*" for n in range(1, depth - 1)}
