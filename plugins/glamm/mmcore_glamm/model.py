"""GLaMM: pictures, words and boxes in; words out, and a mask for each `[SEG]` among them.

    image -> tower -> projector --------------+
              | four states                   |
    boxes -> region encoder ------------------+-> language model -> text loss, answers
    words ------------------------------------+         | the state that predicts each [SEG]
                                                   projection
    image -> SAM's image encoder (frozen) -> map -> mask decoder -> masks, BCE and dice loss

Tower, projector, language model and the text loss are the core's (`mmcore.language.llava.model`). Every encoder sees a
picture once, however many conversations speak of it, and none runs for a batch that does not need it; where processes
train together each enters every part, with no rows if need be.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from mmcore.contract.recipe import Stage
from mmcore.contract.values import SEGMENT, Loss, Losses, Prediction, Turn
from mmcore.errors import UsageError
from mmcore.geometry.square import Frame, frame
from mmcore.language.llava.checkpoints import merged, with_new_words
from mmcore.language.llava.model import LlavaModel
from mmcore.language.models import Hidden
from mmcore.language.tokenizer_files import save_tokenizer
from mmcore.losses.full_masks import mask_totals
from mmcore.vision.clip_vit import ClipVit
from mmcore.vision.frozen import is_frozen
from mmcore.vision.sam.decoder import unread
from mmcore.vision.sam.model import Sam
from mmcore.vision.sam.pixels import normalised
from mmcore.weights.maps import LoadReport, WeightMap
from torch import Tensor, nn

from mmcore_glamm import weights
from mmcore_glamm.batch import REGION, GlammBatch, GlammCollator
from mmcore_glamm.config import RANDOM, GlammConfig
from mmcore_glamm.data.manners import points_with
from mmcore_glamm.questions import Asking
from mmcore_glamm.region_encoder import RegionEncoder
from mmcore_glamm.seg_projection import SegProjection, keep_variance
from mmcore_glamm.tokens import open_tokenizer


class Glamm(LlavaModel):
    """A language model that sees, reads boxes and draws masks.

    Args:
        config: sizes and switches.
        loss_weights: factor of each loss by name; those not named have the published ones.
    """

    config: GlammConfig
    tower: ClipVit
    PARTS = weights.PARTS

    def __init__(self, config: GlammConfig, loss_weights: Mapping[str, float] | None = None) -> None:
        super().__init__(config, loss_weights)
        self.region_encoder = RegionEncoder(config.region, config.tower.channels, config.width)
        self.seg_projection = SegProjection(config.width, config.sam.out_channels)
        self.sam = Sam(config.sam, fixed=config.sam_weights == RANDOM)
        if config.sam_weights == RANDOM:
            keep_variance(self.seg_projection, self.sam.mask_decoder)

    def own_losses(self) -> dict[str, float]:
        """Published weights (`train.py`: ce 1.0, bce 2.0, dice 0.5)."""
        return {"text": 1.0, "mask_bce": 2.0, "mask_dice": 0.5}

    # Training

    def forward(self, batch: GlammBatch) -> Losses:  # type: ignore[override]
        """Text loss per learned token, and both mask losses per mask."""
        hidden = self.hidden(batch)
        losses = Losses(text=self.text_loss(hidden, batch))
        if len(batch.mask_rows) or self.is_shared:
            states = hidden.last.flatten(0, 1).index_select(0, batch.seg_places)
            low = self.draw(self.maps(batch), states, batch.mask_rows)
            totals = mask_totals(low, self.frames(batch), batch.masks, self.side)
            for name, total in zip(("mask_bce", "mask_dice"), totals, strict=True):
                losses[name] = Loss(self.loss_weights[name] * total, "masks")
        return losses

    def hidden(self, batch: GlammBatch) -> Hidden:
        """The language model's states."""
        embeds = self.language.embed(batch.sequences, self.spliced(batch))
        return self.language(embeds, batch.sequences)

    def spliced(self, batch: GlammBatch) -> dict[str, Float[Tensor, "things rows width"]]:  # type: ignore[override]
        """The picture at every image's place, and the word of every box."""
        if not self.sees(batch):
            return {}
        states = self.tower_states(batch)
        selected = states[self.config.region_states[-1]]
        rows = self.projector(self.tower.select(selected))
        spliced = {"image": rows.index_select(0, batch.image_rows)}
        if len(batch.boxes) or self.is_shared:
            spliced[REGION] = self.region_words(batch, states)[:, None]
        return spliced

    def tower_states(self, batch: GlammBatch) -> dict[int, Float[Tensor, "images positions channels"]]:
        """The states that projector and region encoder read, of every picture; a frozen tower keeps nothing."""
        wanted = self.config.region_states if len(batch.boxes) or self.is_shared else self.config.region_states[-1:]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not is_frozen(self.tower)):
            return dict(zip(wanted, self.tower(batch.images, wanted), strict=True))

    def region_words(self, batch: GlammBatch, states: Mapping[int, Tensor]) -> Float[Tensor, "boxes width"]:
        """The word of every box; pictures without any are left out."""
        levels = [states[layer][:, 1:].index_select(0, batch.region_rows) for layer in self.config.region_states]
        return self.region_encoder(levels, batch.boxes, batch.box_rows)

    # Masks

    def maps(self, batch: GlammBatch, rows: Tensor | None = None) -> Float[Tensor, "pictures channels grid grid"]:
        """SAM's map of every picture, or of some: cached, or of the encoder, all at once."""
        known, pixels = batch.features.get(SEGMENT), batch.other_images.get(SEGMENT)
        if known is not None:
            return known if rows is None else known[rows]
        if pixels is None:
            pixels = torch.zeros(0, 4, self.side, self.side, dtype=torch.uint8, device=batch.images.device)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not is_frozen(self.sam.image_encoder)):
            return self.sam.image_encoder(normalised(pixels if rows is None else pixels[rows]))

    def draw(
        self, maps: Tensor, states: Float[Tensor, "masks width"], pictures: Int[Tensor, " masks"]
    ) -> Float[Tensor, "masks small small"]:
        """Logits of masks at a quarter of SAM's side.

        Args:
            maps: of the pictures.
            states: of the language model, those that predict a `[SEG]`.
            pictures: of each of them.
        """
        return self.sam.mask_decoder(maps, self.seg_projection(states), pictures, *self.sam.prompt_encoder())

    def frames(self, batch: GlammBatch) -> list[Frame]:
        """How the picture of each sample with masks lies in SAM's square."""
        sizes = zip(batch.original_sizes, batch.num_masks, strict=True)
        return [frame(size, self.side) for size, count in sizes if count]

    @property
    def side(self) -> int:
        """Of SAM's square, pixels."""
        return self.config.sam.image_size

    # Answers

    @torch.no_grad()
    def predict(self, batch: GlammBatch) -> list[Prediction]:  # type: ignore[override]
        """The answer to each prompt, or the masks of answers that are given."""
        from mmcore_glamm import answers

        return answers.read_given(self, batch) if batch.given else answers.answer(self, batch)

    def prepare(
        self, images: Sequence[np.ndarray], *, names: Sequence[str] | None = None, prompt: str | None = None
    ) -> GlammBatch:
        """One question about each (height, width, 3) uint8 RGB picture.

        Raises:
            UsageError: names are given together with a prompt, or a box cannot be read.
        """
        asking, collate = self._asking()
        batch = collate(asking.prompts(images, names, prompt), 0)
        batch.called = ", ".join(names or ())
        return batch

    def converse(self, image: np.ndarray | None, turns: Sequence[Turn]) -> GlammBatch:
        """The next answer of a conversation about a (height, width, 3) uint8 RGB picture.

        Raises:
            UsageError: there is no picture.
        """
        if image is None:
            raise UsageError("GLaMM speaks about a picture, and there is none", do="give one")
        asking, collate = self._asking()
        return collate([asking.conversation(image, turns)], 0)

    def _asking(self) -> tuple[Asking, GlammCollator]:
        """What makes prompts, and batches of them."""
        processor = self.config.processor(self.tokenizer)
        return Asking(processor, self.side), self.config.collator(processor, padding_side="left")

    @cached_property
    def tokenizer(self) -> Any:
        """The variant's tokenizer, opened when text is first needed; may be set."""
        return open_tokenizer(self.config, self._places)

    # Weights

    def upstream_names(self) -> WeightMap:
        """The map between published GLaMM names and this model's, the tower included."""
        return weights.upstream(self.config)

    def published_parts(self, tensors: Mapping[str, Tensor]) -> WeightMap:
        """The map for a published folder, which lacks the tower, or for a LLaVA, which lacks what GLaMM adds."""
        return weights.whole(self.config, tensors)

    def export_tensors(self, tensors: Mapping[str, Tensor], format: str, precision: str | None) -> Mapping[str, Tensor]:
        """As published: without the tower, SAM and its projection in float32, the rest in bfloat16."""
        del format
        return weights.as_published(tensors, self.config, None if precision in ("fp32", "fp16") else torch.bfloat16)

    def export_files(self, folder: Path, format: str) -> None:
        """Configuration and tokenizer beside published weights."""
        from mmcore_glamm.export import write_files

        if format == "hf":
            save_tokenizer(self.tokenizer, folder)
            return
        write_files(self.config, self.tokenizer, folder)

    def _fill(self, path: str | Path, tensors: Mapping[str, Tensor]) -> LoadReport:
        """As the base class; adapters in a training checkpoint are folded in, and new words are drawn first."""
        language = self.config.language
        tensors = merged(tensors, self.config.adapter_alpha)
        tensors = with_new_words(tensors, language["vocab_size"], language.get("initializer_range", 0.02))
        return super()._fill(path, tensors)

    # What the core asks

    def idle_parameters(self, stage: Stage) -> tuple[str, ...]:
        """Parts of SAM's decoder that no mask reads, and those that only other data use."""
        decoder = tuple(f"sam.mask_decoder.{name}" for name in unread(self.config.sam))
        used = points_with(source.format for source in stage.data.sources.values())
        others = () if "boxes" in used else ("region_encoder",)
        others += () if "masks" in used else ("sam", "seg_projection")
        return (*decoder, *others, *super().idle_parameters(stage))

    def zero3_leaves(self) -> Sequence[nn.Module]:
        """Parts that read weights of the parts inside them."""
        return (self.sam.prompt_encoder, self.sam.mask_decoder)
