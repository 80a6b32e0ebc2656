"""Sources and batches: what a record becomes, what is supervised, what is counted, and how it is drawn."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmcore.contract.protocols import DataContext, Datasets
from mmcore.contract.recipe import Stage
from mmcore.contract.values import MAIN, Draw
from mmcore.errors import DataError, MissingDataError
from mmcore.language.batch import ConversationBatch
from mmcore.show.batch import draw_batch
from mmcore_visper.config import VARIANTS
from mmcore_visper.data import build
from mmcore_visper.data.demo import write_demo
from mmcore_visper.recipes import TINY_IFT, TINY_PT


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> DataContext:
    """A small data root of sample pictures."""
    root = write_demo(tmp_path_factory.mktemp("data"), train=32, val=3)
    return DataContext(root=root, cache=tmp_path_factory.mktemp("cache"), variant="tiny", seed=0)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, context: DataContext) -> None:
    """The tiny tokenizer goes into the tests' cache, not the user's."""
    monkeypatch.setenv("MMCORE_CACHE", str(context.cache))


def batch_of(datasets: Datasets, name: str, positions: list[int]) -> ConversationBatch:
    """Records of one source as a batch."""
    source = datasets.sources[name]
    samples = [source.sample(Draw(name, position, 0)) for position in positions]
    batch = datasets.collate[name](samples, 0)  # type: ignore[arg-type]
    assert isinstance(batch, ConversationBatch)
    return batch


def text_position(datasets: Datasets) -> int:
    """A record of the questions that has no image."""
    return int(np.flatnonzero(datasets.sources["questions"].lengths() < 0)[0])  # type: ignore[attr-defined]


def said(batch: ConversationBatch, context: DataContext) -> str:
    """What a batch teaches to say."""
    from mmcore_visper.tokenizer import open_tokenizer

    return open_tokenizer(VARIANTS["tiny"], [context.root]).decode(batch.sequences.targets.tolist())


def test_only_answers_and_what_ends_them_are_learned(context: DataContext) -> None:
    datasets = build(TINY_IFT, "train", context)
    batch = batch_of(datasets, "questions", [0])
    answers = [turn.text for turn in batch.turns[0] if turn.role == "assistant"]
    assert said(batch, context) == "".join(f"\n\n{answer}<|eot_id|>" for answer in answers)


def test_the_image_and_its_task_tokens_stand_in_the_first_turn(context: DataContext) -> None:
    config = VARIANTS["tiny"]
    sequences = batch_of(build(TINY_PT, "train", context), "captions", [0, 1]).sequences
    assert {kind: len(where) for kind, where in sequences.slots.items()} == {
        "image": 2 * config.image_tokens,
        **{task.name: 2 * config.num_task_tokens for task in config.tasks},
    }
    length = sequences.shape[1]
    first = sequences.slots["image"][: config.image_tokens]
    assert first.tolist() == list(range(int(first[0]), int(first[0]) + config.image_tokens))
    assert int(sequences.slots["image"][config.image_tokens]) == length + int(first[0])


def test_a_batch_of_text_alone_has_no_image_rows(context: DataContext) -> None:
    datasets = build(TINY_IFT, "train", context)
    batch = batch_of(datasets, "questions", [text_position(datasets)])
    assert tuple(batch.images.shape) == (0, 3, 96, 96)
    assert batch.statistics["images"] == 0
    assert not len(batch.image_samples)
    assert all(len(where) == 0 for where in batch.sequences.slots.values())


def test_text_and_pictures_share_a_batch_and_rows_say_whose_they_are(context: DataContext) -> None:
    datasets = build(TINY_IFT, "train", context)
    batch = batch_of(datasets, "questions", [0, text_position(datasets), 1])
    assert batch.image_samples.tolist() == [0, 2]
    assert batch.normalisers["samples"] == 3
    assert batch.statistics["images"] == len(batch.images) == 2
    assert batch.original_sizes[1] == (0, 0)


def test_counts_are_those_of_the_plan(context: DataContext) -> None:
    batch = batch_of(build(TINY_IFT, "train", context), "questions", [0, 1, 2])
    rows, length = batch.sequences.shape
    assert batch.normalisers["tokens"] == len(batch.sequences.targets)
    assert batch.statistics["positions"] == int(batch.sequences.valid.sum())
    assert batch.statistics["positions"] + batch.statistics["padding"] == rows * length


def test_pictures_of_the_first_stage_are_cut_and_later_ones_padded(context: DataContext) -> None:
    cut = build(TINY_PT, "train", context).sources["captions"].processor.pixels  # type: ignore[attr-defined]
    padded = build(TINY_IFT, "train", context).sources["questions"].processor.pixels  # type: ignore[attr-defined]
    assert (cut.mode, padded.mode) == ("square", "pad")


def test_teachers_see_the_whole_picture_in_the_stage_with_embedding_losses_only(context: DataContext) -> None:
    batch = batch_of(build(TINY_PT, "train", context), "captions", [0, 1])
    assert set(batch.other_images) == {"gen", "depth", "seg"}
    assert all(len(pixels) == 2 for pixels in batch.other_images.values())
    assert not batch_of(build(TINY_IFT, "train", context), "questions", [0]).other_images


def test_coco_captions_become_the_same_kind_of_batch(context: DataContext) -> None:
    batch = batch_of(build(TINY_PT, "train", context), "coco_captions", [0, 1])
    assert batch.image_ids == ("250000.jpg",) * 2
    assert batch.record_ids == (0, 0)
    assert said(batch, context).count("<|eot_id|>") == 2


def test_a_question_ends_where_the_answer_begins_and_is_padded_on_the_left(context: DataContext) -> None:
    datasets = build(TINY_IFT, "val", context)
    batch = batch_of(datasets, "demo_val", [0, 1, 2, 3])
    sequences = batch.sequences
    ends = {location.start + location.length for location in sequences.locations}
    assert ends == {sequences.shape[1]}
    assert not len(sequences.supervised)
    assert batch.max_new_tokens == 8
    assert len(set(sequences.ids[:, -1].tolist())) == 1


def test_sources_travel_to_workers(context: DataContext) -> None:
    import pickle

    datasets = build(TINY_PT, "train", context)
    again = pickle.loads(pickle.dumps(datasets.sources["captions"]))
    here, there = (one.sample(Draw("captions", 1, 0)) for one in (datasets.sources["captions"], again))
    assert here is not None
    assert torch.equal(here.images[MAIN][0], there.images[MAIN][0])  # type: ignore[attr-defined]


def test_a_missing_image_names_file_record_and_picture(context: DataContext) -> None:
    (context.root / "visper" / "images" / "000005.jpg").rename(context.root / "visper" / "moved.jpg")
    try:
        source = build(TINY_PT, "train", context).sources["captions"]
        with pytest.raises(MissingDataError) as caught:
            source.sample(Draw("captions", 5, 0))
    finally:
        (context.root / "visper" / "moved.jpg").rename(context.root / "visper" / "images" / "000005.jpg")
    assert "captions_train.json, record 5 (id 000005)" in str(caught.value)
    assert "000005.jpg" in str(caught.value)


def test_a_pictures_tokens_never_get_cut_in_half(context: DataContext) -> None:
    short: Stage = TINY_PT.replace(max_length=64)
    with pytest.raises(DataError, match="does not fit a maximum length of 64"):
        build(short, "train", context).sources["captions"].sample(Draw("captions", 0, 0))


def test_a_validation_set_goes_with_its_training_source(context: DataContext) -> None:
    only = DataContext(context.root, context.cache, "tiny", 0, only=("coco_captions",))
    assert not build(TINY_IFT, "val", only).sources
    only = DataContext(context.root, context.cache, "tiny", 0, only=("questions",))
    assert set(build(TINY_IFT, "val", only).sources) == {"demo_val"}


def test_a_batch_is_drawn_with_as_many_pictures_as_samples(context: DataContext) -> None:
    datasets = build(TINY_IFT, "train", context)
    batch = batch_of(datasets, "questions", [0, text_position(datasets)])
    pictures = draw_batch(batch, datasets.collate["questions"])
    assert len(pictures) == 2
    learned = [np.all(np.asarray(picture) == (86, 180, 233), -1).sum() for picture in pictures]
    assert min(learned) > 500


def test_photographs_with_their_captions_are_read_as_conversations(shared: Path, tmp_path: Path) -> None:
    context = DataContext(shared / "data" / "coco_mini", tmp_path, "tiny", 0, only=("coco_captions",))
    datasets = build(TINY_PT, "train", context)
    assert len(datasets.sources["coco_captions"]) == 400
    batch = batch_of(datasets, "coco_captions", [0, 133, 399])
    assert len(batch.images) == 3
    assert batch.statistics["cut"] == 0
