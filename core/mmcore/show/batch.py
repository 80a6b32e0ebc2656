"""The pictures of a batch, for `mmcore data show` and for a step that went wrong: what the network was given."""

from collections.abc import Callable

from PIL import Image

from mmcore.contract.protocols import Collate, Collator
from mmcore.contract.values import Batch, DetectionBatch
from mmcore.errors import DataError
from mmcore.language.batch import ConversationBatch
from mmcore.show.conversation import as_picture, draw_conversation, tokens_of
from mmcore.show.draw import draw_grounded, draw_row
from mmcore.show.marks import below, contact_sheet
from mmcore.vision.clip_images import CLIP_MEAN, CLIP_STD


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
        return draw_conversations(batch, collate.text_of if isinstance(collate, Collator) else str)
    raise DataError(f"batches of source {batch.source!r} hold no images that could be drawn")


def by_clip(batch: DetectionBatch, rows: list[Image.Image]) -> list[Image.Image]:
    """Pictures of a batch's images, one a sample: of a clip the frames side by side."""
    if batch.num_frames is None:
        return rows
    starts = [sum(batch.num_frames[:clip]) for clip in range(len(batch.num_frames))]
    pairs = zip(starts, batch.num_frames, strict=True)
    return [contact_sheet(rows[start : start + count], columns=count) for start, count in pairs]


def draw_conversations(batch: ConversationBatch, text_of: Callable[[int], str]) -> list[Image.Image]:
    """Every sample as the network gets it: its first picture, and the tokens with the learned ones marked."""
    pictures = []
    for sample, draw in enumerate(batch.draws):
        tokens = tokens_of(batch.sequences, sample, text_of)
        image, size = None, "text"
        if (row := batch.first_image(sample)) is not None:
            image = as_picture(batch.images[row].numpy(), CLIP_MEAN, CLIP_STD)
            height, width = batch.original_sizes[sample]
            size = f"{width}x{height} became {image.width}x{image.height}"
        facts = f"{batch.source} record {draw.position}, id {batch.record_ids[sample]}: {size}"
        picture = draw_conversation(image, tokens, facts)
        if batch.regions and batch.regions[sample]:
            # The view above may be cropped or padded; regions are in pixels of the image on disk.
            height, width = batch.original_sizes[sample]
            blank = Image.new("RGB", (width, height), (128, 128, 128))
            spoken = draw_grounded(blank, batch.turns[sample], batch.regions[sample], batch.phrases[sample])
            picture = below(picture, spoken)
        pictures.append(picture)
    return pictures
