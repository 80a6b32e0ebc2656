"""The pictures of a batch, for `mmcore data show` and for a step that went wrong: what the network was given."""

from typing import NamedTuple

from PIL import Image

from mmcore.contract.protocols import Collate, Collator
from mmcore.contract.values import Batch, DetectionBatch, Phrase, Region, Turn, VisualPrompt
from mmcore.errors import DataError
from mmcore.language.batch import ConversationBatch
from mmcore.language.collate import ConversationCollator
from mmcore.show.conversation import as_picture, draw_conversation, tokens_of
from mmcore.show.draw import draw_grounded, draw_row
from mmcore.show.marks import contact_sheet
from mmcore.show.seen import seen
from mmcore.vision.clip_images import CLIP_MEAN, CLIP_STD, ClipImages


def draw_batch(batch: Batch, collate: Collate) -> list[Image.Image]:
    """One picture per sample: the collator's own where it draws, boxes and masks (of a clip the frames side by side),
    or a conversation's tokens.

    Args:
        batch: on the CPU.
        collate: that made it; its `text_of` says what a token is.

    Raises:
        DataError: it holds nothing that could be drawn.
    """
    own = collate.draw(batch) if isinstance(collate, Collator) else None
    if own is not None:
        return list(own)
    if isinstance(batch, DetectionBatch):
        names = getattr(batch, "names", None)
        return by_clip(batch, [draw_row(batch, row, names=names) for row in range(len(batch.images))])
    if isinstance(batch, ConversationBatch):
        return draw_conversations(batch, collate)
    raise DataError(f"batches of source {batch.source!r} hold no images that could be drawn")


def by_clip(batch: DetectionBatch, rows: list[Image.Image]) -> list[Image.Image]:
    """Pictures of a batch's images, one a sample: of a clip the frames side by side."""
    if batch.num_frames is None:
        return rows
    starts = [sum(batch.num_frames[:clip]) for clip in range(len(batch.num_frames))]
    pairs = zip(starts, batch.num_frames, strict=True)
    return [contact_sheet(rows[start : start + count], columns=count) for start, count in pairs]


def draw_conversations(batch: ConversationBatch, collate: Collate) -> list[Image.Image]:
    """Every sample as the network gets it: its first picture, and the tokens with the learned ones marked.

    A sample that speaks of regions has them on the picture, and what was said below in their colours.
    """
    text_of = collate.text_of if isinstance(collate, Collator) else str
    pixels = collate.pixels if isinstance(collate, ConversationCollator) else None
    mean, std = (CLIP_MEAN, CLIP_STD) if pixels is None else (pixels.mean, pixels.std)
    pictures = []
    for sample, draw in enumerate(batch.draws):
        image, size = None, "text"
        if (row := batch.first_image(sample)) is not None:
            image = as_picture(batch.images[row].numpy(), mean, std)
            height, width = batch.original_sizes[sample]
            size = f"{width}x{height} became {image.width}x{image.height}"
            if (spoken := _spoken_of(batch, sample)) is not None:
                image = _grounded(image, spoken, (height, width), pixels)
        facts = f"{batch.source} record {draw.position}, id {batch.record_ids[sample]}: {size}"
        pictures.append(draw_conversation(image, tokens_of(batch.sequences, sample, text_of), facts))
    return pictures


class _Spoken(NamedTuple):
    """What a conversation says of places in its picture."""

    turns: tuple[Turn, ...]
    regions: tuple[Region, ...]
    phrases: tuple[Phrase, ...]
    prompts: tuple[VisualPrompt, ...]


def _spoken_of(batch: ConversationBatch, sample: int) -> _Spoken | None:
    """None where nothing is spoken of but the whole picture."""
    spoken = _Spoken(
        batch.turns[sample] if batch.turns else (),
        batch.regions[sample] if batch.regions else (),
        batch.phrases[sample] if batch.phrases else (),
        batch.prompts[sample] if batch.prompts else (),
    )
    return spoken if spoken.regions or spoken.prompts else None


def _grounded(view: Image.Image, spoken: _Spoken, size: tuple[int, int], pixels: ClipImages | None) -> Image.Image:
    """Regions on the picture as the tower sees it, the conversation below."""
    place = (0.0, 0.0, float(view.width), float(view.height)) if pixels is None else pixels.place(*size)
    on = seen(view, place, size)
    regions = tuple(on.region(region) for region in spoken.regions)
    asked = {one.region for one in spoken.prompts if one.region is not None}
    prompts = [on.prompt(one) for one in spoken.prompts if one.region is None]
    return draw_grounded(on.picture, spoken.turns, regions, spoken.phrases, prompts, asked)
