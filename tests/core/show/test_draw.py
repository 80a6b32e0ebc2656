import numpy as np
import pytest
import torch
from mmcore.contract.values import IGNORED, DetectionBatch, Draw, Phrase, Prediction, Sample
from mmcore.geometry import masks
from mmcore.show import marks
from mmcore.show import text as texts
from mmcore.show.draw import draw_clip, draw_prediction, draw_row, draw_sample, select
from mmcore.show.marks import Mark, contact_sheet, draw_marks
from mmcore.show.text import Run
from PIL import Image


def disc(height: int, width: int) -> masks.Rle:
    rows, columns = np.mgrid[:height, :width]
    return masks.encode((rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (min(height, width) / 4) ** 2)


def prediction(height: int, width: int, count: int = 3, **fields: object) -> Prediction:
    x = torch.linspace(0, width * 0.5, count)
    boxes = torch.stack([x, x * 0 + height * 0.2, x + width * 0.4, x * 0 + height * 0.8], dim=1)
    values = {
        "boxes_xyxy": boxes,
        "scores": torch.linspace(0.9, 0.1, count),
        "labels": torch.arange(count),
        "names": tuple(f"thing {i}" for i in range(count)),
        "masks": [disc(height, width)] * count,
    }
    return Prediction(1, (height, width), **{**values, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (120, 160), (4000, 3000)])
def test_any_image_size_gives_a_readable_picture(size: tuple[int, int]) -> None:
    height, width = size
    picture = draw_prediction(Image.new("L", (width, height), 90), prediction(height, width))
    assert picture.mode == "RGB"
    assert marks.SMALLEST_SIDE <= max(picture.size) <= marks.LARGEST_SIDE


def test_only_objects_above_the_threshold_are_drawn() -> None:
    image = Image.new("RGB", (600, 600), (90, 90, 90))
    nothing = draw_prediction(image, prediction(600, 600), threshold=0.95)
    assert nothing.getcolors() == [(600 * 600, (90, 90, 90))]
    one, all_ = (draw_prediction(image, prediction(600, 600), t) for t in (0.8, 0.0))
    assert one.tobytes() != all_.tobytes()


def test_the_best_come_first_and_top_cuts_the_rest() -> None:
    found = prediction(50, 50, scores=torch.tensor([0.2, 0.9, 0.5]))
    assert select(found, 0.0) == [1, 2, 0]
    assert select(found, 0.3, top=1) == [1]
    assert select(prediction(50, 50, scores=None), 0.5) == [0, 1, 2]


def test_a_mask_tints_its_inside_only() -> None:
    image = Image.new("RGB", (600, 600), (90, 90, 90))
    mark = Mark(marks.PALETTE[0], mask=masks.decode(disc(600, 600)))
    picture = np.asarray(draw_marks(image, [mark]))
    assert tuple(picture[5, 5]) == (90, 90, 90)
    assert np.abs(picture[300, 300].astype(int) - 90).max() > 20


def test_names_do_not_cover_each_other() -> None:
    boxes = [(100.0, 100.0 + 2 * i, 200.0, 220.0 + 2 * i) for i in range(8)]
    taken: list[marks.Box] = []
    for box in boxes:
        spots = marks._spots(box, 90, 20, (640, 480))
        others = [other for other in boxes if other is not box]
        taken.append(min(spots, key=lambda spot: marks._cost(spot, taken, others)))
    hidden = sum(marks._shared(a, b) for i, a in enumerate(taken) for b in taken[:i])
    assert hidden == 0
    assert all(x1 >= 0 and y1 >= 0 and x2 <= 640 and y2 <= 480 for x1, y1, x2, y2 in taken)


def test_swapped_and_infinite_boxes_are_survived() -> None:
    boxes = torch.tensor([[50.0, 50, 10, 10], [float("nan"), 0, 5, 5], [-100, -100, 9000, 9000]])
    draw_prediction(Image.new("RGB", (80, 80)), prediction(80, 80, boxes_xyxy=boxes))


def test_text_stands_below_in_as_many_lines_as_it_needs() -> None:
    image = Image.new("RGB", (600, 400))
    text = "a dog runs " * 40
    phrases = (Phrase(0, 2, 5, (1,)), Phrase(0, 13, 16, (9,)))
    short = draw_prediction(image, prediction(400, 600, text="a dog", phrases=(Phrase(0, 2, 5, (0,)),)))
    long = draw_prediction(image, prediction(400, 600, text=text, phrases=phrases))
    assert 400 < short.height < long.height
    strip = np.asarray(short)[400:]
    assert (strip == marks.PALETTE[0]).all(-1).any()


def test_no_word_is_lost_when_text_is_broken_into_lines() -> None:
    runs = [Run("one two "), Run("three", (0, 0, 0)), Run(" four\nfive six" + "x" * 300)]
    placed = texts.lay_out(runs, texts.Face(14), 120)
    joined = "".join(word for _, _, word, _ in placed)
    assert joined.replace(" ", "") == "onetwothreefourfivesix" + "x" * 300
    assert all(x + texts.Face(14).getlength(word) <= 121 for x, _, word, _ in placed)


def sample(expression: str | None = None) -> Sample:
    return Sample(
        image=torch.full((3, 40, 60), 90, dtype=torch.uint8),
        boxes_xyxy=torch.tensor([[5.0, 5, 25, 25], [30, 10, 50, 30]]),
        labels=torch.tensor([0, 1]),
        masks=torch.zeros(2, 40, 60, dtype=torch.bool),
        draw=Draw("coco", 3, 0),
        image_id=7,
        original_size=(80, 120),
        expression=expression,
    )


def test_a_sample_shows_its_objects_and_where_it_comes_from() -> None:
    plain, named = draw_sample(sample()), draw_sample(sample(), names=("cat", "dog"))
    assert plain.height > 512 * 40 / 60
    assert plain.tobytes() != named.tobytes()
    assert draw_sample(sample("left dog")).height > plain.height


def test_a_batch_row_shows_its_own_objects_only() -> None:
    batch = DetectionBatch(
        source="coco",
        draws=(Draw("coco", 0, 0), Draw("coco", 1, 0)),
        normalisers={},
        images=torch.full((2, 3, 40, 60), 90, dtype=torch.uint8),
        image_sizes=((40, 60), (30, 50)),
        original_sizes=((40, 60), (30, 50)),
        image_ids=(1, 2),
        num_objects=(1, 0),
        labels=torch.tensor([4]),
        boxes_cxcywh=torch.tensor([[0.5, 0.5, 0.5, 0.5]]),
        masks=torch.ones(1, 40, 60, dtype=torch.uint8),
    )
    first, second = (np.asarray(draw_row(batch, row))[:340] for row in (0, 1))
    assert (first == marks.PALETTE[0]).all(-1).any()
    assert not (second == marks.PALETTE[0]).all(-1).any()


def test_a_contact_sheet_holds_every_picture() -> None:
    pictures = [Image.new("RGB", (50 + 10 * i, 80), (200, 10 * i, 0)) for i in range(5)]
    sheet = contact_sheet(pictures, 3, titles=["a title that is far too long for its cell"] * 5, cell=100)
    assert sheet.size == (3 * 108 + 8, 2 * (80 + 8 + 26) + 8)
    colours = {colour for _, colour in sheet.getcolors(1 << 20) or []}
    assert all((200, 10 * i, 0) in colours for i in range(5))


def test_letters_that_no_font_has_are_told_and_others_are_not() -> None:
    assert texts.missing_letters(["Straße, όνομα, имя"]) is None
    assert "1 letter has" in str(texts.missing_letters(["\U0010fffd cat"]))
    image = Image.new("RGB", (600, 400))
    plain = draw_prediction(image, prediction(400, 600, text="cat"))
    told = draw_prediction(image, prediction(400, 600, text="\U0010fffd"))
    assert told.height > plain.height


def test_one_thing_has_one_colour_in_all_frames() -> None:
    frames = [Image.new("RGB", (600, 400), (90, 90, 90))] * 2
    boxes = torch.tensor([[50.0, 50, 150, 150], [300, 200, 500, 350]])
    found = [
        Prediction(1, (400, 600), boxes, torch.tensor([0.9, 0.5]), track_ids=torch.tensor(ids), frame=number)
        for number, ids in enumerate(([0, 1], [1, 0]))
    ]
    first, second = (np.asarray(draw_prediction(image, one)) for image, one in zip(frames, found))
    assert tuple(first[50, 100]) == tuple(second[200, 400]) == marks.PALETTE[0]
    assert tuple(first[200, 400]) == tuple(second[50, 100]) == marks.PALETTE[1]
    assert draw_clip(frames, found).width > 700


def test_a_label_map_tints_classes_and_leaves_what_is_ignored() -> None:
    labels = torch.full((600, 600), IGNORED)
    labels[:300] = 2
    picture = np.asarray(draw_prediction(Image.new("RGB", (600, 600)), Prediction(1, (600, 600), label_map=labels)))
    assert picture[100, 100].any()
    assert not picture[500, 100].any()
