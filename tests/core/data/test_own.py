"""Own data: what the short file may say, where its files are looked for, and what is refused in which words."""

import json
import shutil
import tarfile
from pathlib import Path

import pytest
from mmcore import AdamW, ByKind, Constant, Data, Source, Stage
from mmcore.data.formats import captions, coco_dialects, miniature
from mmcore.data.formats.registry import Formats
from mmcore.data.images import read_image
from mmcore.data.own import describe
from mmcore.data.pictures import open_images, picture_at
from mmcore.errors import DataError, MissingDataError, RecipeError, UnsafeDataError, UsageError
from mmcore.runs.config import resolve
from mmcore.runs.own import with_added, with_own

FORMATS = Formats.of()
DETECTS = ("detect", "segment")
STAGE = Stage(
    number=1,
    name="finetune",
    title="own data",
    origin="assumed",
    steps=10,
    global_batch=4,
    micro_batch=2,
    data=Data(sources={"old": Source(weight=2.0, format="COCO instances", annotations="old.json")}),
    optim=AdamW(lr=1e-3),
    schedule=Constant(),
)


@pytest.fixture
def shelves(tmp_path: Path) -> Path:
    """A folder with instances and captions of the same pictures, and a file that describes both."""
    photos = tmp_path / "photos"
    assert coco_dialects.FORMATS[0].sample is not None
    coco_dialects.FORMATS[0].sample(photos)
    assert captions.FORMATS[0].sample is not None
    captions.FORMATS[0].sample(photos)
    val = "val: {format: coco, annotations: annotations.json}"
    return write(tmp_path, f"train: [annotations.json, captions.json]\n{val}")


def write(folder: Path, text: str, name: str = "shelves") -> Path:
    path = folder / "own.yaml"
    path.write_text(f"name: {name}\nroot: photos/\n{text}\n")
    return path


@pytest.mark.parametrize("given", ["", ", images: shards", ", images: 'shards/{00..00}.tar'"])
def test_pictures_may_be_in_tars_which_are_found_like_a_folder(shelves: Path, given: str) -> None:
    photos = shelves.parent / "photos"
    place = photos / ("shards" if given else "images")
    pictures = sorted((photos / "images").iterdir())
    place.mkdir(exist_ok=True)
    with tarfile.open(place / "00.tar", "w") as archive:
        for path in pictures:
            archive.add(path, path.name)
    shutil.rmtree(photos / "images") if given else [path.unlink() for path in pictures]
    own = describe(write(shelves.parent, f"train: {{annotations: annotations.json{given}}}"), FORMATS)
    [part] = own.train
    images = open_images(part.root, part.images, "source 'x'", shelves.parent / "cache")
    assert read_image(picture_at(images, pictures[0].name)).ndim == 3


def test_every_family_takes_the_files_that_teach_what_it_learns(shelves: Path) -> None:
    stage, notes = with_own(STAGE, shelves, FORMATS, DETECTS, shelves.parent / "cache")
    [(name, source)] = stage.data.sources.items()
    assert (name, source.format, source.annotations, source.images) == (
        "shelves",
        "COCO instances",
        "annotations.json",
        "images",
    )
    assert source.root == str(shelves.parent / "photos")
    assert list(stage.validation) == ["shelves_val"]
    assert stage.best_metric == "shelves_val/bbox/AP"
    assert stage.class_names == tuple(miniature.kinds())
    assert notes == [
        "own data left out: train captions.json (COCO captions, 4 records) serves caption; learned are detect, segment"
    ]
    stage, notes = with_own(STAGE, shelves, FORMATS, ("caption", "converse"), shelves.parent / "cache")
    assert [one.format for one in stage.data.sources.values()] == ["COCO captions"]
    assert stage.best_metric is None
    assert not stage.class_names
    assert len(notes) == 2


def test_what_cannot_serve_is_refused_with_the_reason_and_the_count(shelves: Path) -> None:
    with pytest.raises(DataError, match=r"COCO instances, 4 records\) serves detect, segment; learned are refer"):
        with_own(STAGE, shelves, FORMATS, ("refer",), shelves.parent / "cache")
    masks = write(shelves.parent, "train: {annotations: annotations.json}\ntasks: [segment]")
    with pytest.raises(DataError, match="serves segment; learned are detect"):
        with_own(STAGE, masks, FORMATS, ("detect",), shelves.parent / "cache")


def test_own_data_are_mixed_in_by_weight(shelves: Path) -> None:
    stage, _ = with_added(STAGE, f"{shelves}:0.5", FORMATS, DETECTS, shelves.parent / "cache")
    assert {name: source.weight for name, source in stage.data.sources.items()} == {"old": 2.0, "shelves": 0.5}
    assert (
        with_added(STAGE, str(shelves), FORMATS, DETECTS, shelves.parent / "cache")[0].data.sources["shelves"].weight
        == 1.0
    )
    for weight in ("much", "-1", "0", "inf"):
        with pytest.raises(UsageError, match="is no weight"):
            with_added(STAGE, f"{shelves}:{weight}", FORMATS, DETECTS, shelves.parent / "cache")
    taken = write(shelves.parent, "train: annotations.json", name="old")
    with pytest.raises(RecipeError, match="has a source 'old' already"):
        with_added(STAGE, str(taken), FORMATS, DETECTS, shelves.parent / "cache")


def test_added_data_keep_their_own_names_beside_those_of_the_run(shelves: Path) -> None:
    cache, kinds = shelves.parent / "cache", tuple(miniature.kinds())
    added, _ = with_added(STAGE, str(shelves), FORMATS, DETECTS, cache)
    assert added.data.sources["shelves"].class_names == added.validation["shelves_val"].class_names == kinds
    assert not added.class_names  # read with the recipe's sources, once --set has settled these
    first, _ = with_own(STAGE, shelves, FORMATS, DETECTS, cache)
    other = write(
        shelves.parent,
        f"train: annotations.json\nval: annotations.json\nclasses: {{{kinds[0]}: lift, '*': null}}",
        name="other",
    )
    both, _ = with_added(first, str(other), FORMATS, DETECTS, cache)
    assert both.class_names == (*kinds, "lift")
    names = {name: entry.class_names for name, entry in {**both.data.sources, **both.validation}.items()}
    assert names == {"shelves": kinds, "shelves_val": kinds, "other": ("lift",), "other_val": ("lift",)}


def test_a_family_may_judge_by_a_figure_of_its_own(shelves: Path) -> None:
    judged = {"segment": "gIoU", "detect": "AP"}
    stage, _ = with_own(STAGE, shelves, FORMATS, DETECTS, shelves.parent / "cache", judged)
    assert stage.validation["shelves_val"].metrics == ("gIoU",)
    assert stage.best_metric == "shelves_val/gIoU"


def test_added_data_say_their_group_where_a_mixture_goes_by_one(shelves: Path) -> None:
    old = STAGE.data.sources["old"]
    one = STAGE.replace(data=Data(sources={"old": old.replace(group="seg")}, mixture=ByKind(weights={"seg": 1.0})))
    added, _ = with_added(one, str(shelves), FORMATS, DETECTS, shelves.parent / "cache")
    assert added.data.sources["shelves"].group == "seg"
    sources = {"old": old.replace(group="seg"), "older": old.replace(group="reg")}
    two = STAGE.replace(data=Data(sources=sources, mixture=ByKind(weights={"seg": 1.0, "reg": 2.0})))
    with pytest.raises(RecipeError, match="do not say which group") as caught:
        with_added(two, str(shelves), FORMATS, DETECTS, shelves.parent / "cache")
    assert caught.value.known == "reg, seg"
    named = write(shelves.parent, "train: {annotations: annotations.json, group: reg}")
    assert (
        with_added(two, str(named), FORMATS, DETECTS, shelves.parent / "cache")[0].data.sources["shelves"].group
        == "reg"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("trian: annotations.json", r"no key 'trian'(.|\n)*did you mean 'train'"),
        ("train: {annotation: annotations.json}", r"no key 'annotation'(.|\n)*did you mean 'annotations'"),
        ("train: annotations.json\ntasks: [detct]", r"no task 'detct'(.|\n)*did you mean 'detect'"),
        ("train: annotations.json\nbefore: 3", "before"),
        ("val: annotations.json", "needs a name and train"),
    ],
)
def test_a_wrong_key_is_answered_with_the_nearest(shelves: Path, text: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        describe(write(shelves.parent, text), FORMATS)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("train: /etc/passwd", UnsafeDataError),
        ("train: ../secret.json", UnsafeDataError),
        ("train: {annotations: annotations.json, images: ../..}", UnsafeDataError),
        ("train: missing.json", MissingDataError),
        ("train: {annotations: annotations.json, format: cocoo}", DataError),
    ],
)
def test_only_root_may_lie_anywhere(shelves: Path, text: str, kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught:
        describe(write(shelves.parent, text), FORMATS)
    assert "own.yaml" in str(caught.value)


def test_annotations_may_lie_beside_the_file_and_pictures_beside_the_annotations(shelves: Path) -> None:
    folder = shelves.parent
    (folder / "train.json").write_bytes((folder / "photos/annotations.json").read_bytes())
    [part] = describe(write(folder, "train: train.json"), FORMATS).train
    assert (part.root, part.annotations, part.images) == (folder, ("train.json",), "photos/images")
    roboflow = folder / "photos/train"
    (folder / "photos/images").rename(roboflow)
    (roboflow / "_annotations.coco.json").write_bytes((folder / "train.json").read_bytes())
    [part] = describe(write(folder, "train: train/_annotations.coco.json"), FORMATS).train
    assert part.images == "train"


def test_a_recipe_itself_cannot_name_a_root(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(json.dumps({"data": {"sources": {"old": {"root": "/etc"}}}}))
    for arguments in (
        (tmp_path / "a.yaml", ()),
        (None, ["data.sources.old.root=/etc"]),
        (None, ["data.sources.old.class_names=[cup]"]),
    ):
        with pytest.raises(RecipeError, match=r"--own and --add alone"):
            resolve(STAGE, *arguments)
