"""Golden splices: where words, image rows and region tokens end up, and what the longest length cuts."""

import torch
from mmcore.language.sequence import IMAGE, REGION, Encoded, Sequences
from mmcore.language.splice import embed, lay_out
from mmcore.parity import Case, Check, Report
from torch import Tensor, nn

from mmcore_griffon.parity.common import encoded_rows


def check_splice(case: Case, report: Report) -> None:
    """Symbolic features: a word is its number, the rows of sample k's image count from 1000 (k + 1)."""
    given, rows = case.tensors, case.data["image_tokens"]
    report.covers("labels", "attention_mask")  # inputs
    encoded = encoded_rows(given["input_ids"], given["labels"], given["attention_mask"])
    sequences = lay_out(
        encoded,
        {IMAGE: (("image", rows),), REGION: (("region", 1),)},
        max_length=case.data["tokenizer_model_max_length"],
        padding_side=case.data["padding_side"],
    )
    samples = torch.arange(1.0, len(encoded) + 1)
    images = 1000 * samples[:, None, None] + torch.arange(float(rows))[None, :, None]
    regions = -1000 * samples[:, None, None]
    features = {
        kind: value[[i for i, row in enumerate(encoded) if (row.ids == marker).any()]]
        for kind, marker, value in (("image", IMAGE, images), ("region", REGION, regions))
    }
    words = nn.Embedding.from_pretrained(torch.arange(float(given["input_ids"].max() + 1))[:, None])
    report.equal("embeds", embed(sequences, words, features)[..., 0], given["embeds"])
    report.equal("out_labels", spliced_labels(sequences, encoded), given["out_labels"])
    report.equal("out_attention_mask", sequences.valid.to(torch.uint8), given["out_attention_mask"])


def spliced_labels(sequences: Sequences, encoded: list[Encoded]) -> Tensor:
    """Labels of every position as the published splice pads them; nothing predicts the first of a sample."""
    labels = torch.full((sequences.ids.numel(),), -100)
    labels[sequences.supervised + 1] = sequences.targets
    for place, row in zip(sequences.locations, encoded, strict=True):
        if place.length:
            labels[place.row * sequences.shape[1] + place.start] = int(row.labels[0])
    return labels.view(sequences.shape)


KINDS: dict[str, Check] = {"splice_": check_splice}
