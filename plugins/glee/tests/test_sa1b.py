"""SA-1B: which masks are kept, the index without masks, and masks read beside the image."""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from mmcore.contract.protocols import DataContext
from mmcore.contract.values import Draw
from mmcore.data.formats.sa1b import kept, main, write_index
from mmcore.errors import DataError
from mmcore.geometry import masks
from mmcore_glee.data import build
from mmcore_glee.recipes import stages
from PIL import Image

HEIGHT, WIDTH = 80, 96


def mask(id_: int, x: int, y: int, w: int, h: int) -> dict:
    bitmap = np.zeros((HEIGHT, WIDTH), np.uint8)
    bitmap[y : y + h, x : x + w] = 1
    return {"id": id_, "area": w * h, "bbox": [float(x), float(y), float(w), float(h)]} | {
        "segmentation": masks.encode(bitmap)
    }


MASKS = [
    mask(10, 8, 8, 24, 24),
    mask(11, 8, 8, 48, 48),  # covers all of 10
    mask(12, 48, 48, 40, 24),  # a corner of it lies in 11
    mask(13, 0, 64, 16, 16),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "SA1B_scaleup" / "images" / "sa_000000"
    folder.mkdir(parents=True)
    image = {"image_id": 1, "file_name": "sa_1.png", "height": HEIGHT, "width": WIDTH}
    (folder / "sa_1.json").write_text(json.dumps({"image": image, "annotations": MASKS}))
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "sa_1.png")
    return tmp_path


def index(root: Path) -> Path:
    images, out = root / "SA1B_scaleup" / "images", root / "SA1B_scaleup" / "sa1b_500k.json"
    done = CliRunner().invoke(main, [str(images), "sa_000000", "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "1 images, 3 masks" in done.output
    return out


def source(root: Path):
    stage = stages("lite")[1]
    return build(stage, "train", DataContext(root, root / "cache", "lite", 0, ("sa1b",))).sources["sa1b"]


def test_a_mask_inside_a_larger_one_goes_and_the_largest_comes_first() -> None:
    assert kept(MASKS) == [1, 2, 3]
    assert kept([]) == []


def test_what_covers_a_mask_need_not_be_kept_itself() -> None:
    chain = [mask(1, 0, 0, 96, 80), mask(2, 0, 0, 48, 80), mask(3, 24, 0, 40, 40)]
    assert kept(chain) == [0]


def test_the_index_names_the_kept_masks_and_leaves_the_files_alone(root: Path) -> None:
    sidecar = root / "SA1B_scaleup/images/sa_000000/sa_1.json"
    before = sidecar.read_bytes()
    content = json.loads(index(root).read_text())
    assert sidecar.read_bytes() == before
    assert [annotation["id"] for annotation in content["annotations"]] == [11, 12, 13]
    assert not any("segmentation" in annotation for annotation in content["annotations"])
    assert content["images"] == [{"file_name": "sa_000000/sa_1.png", "height": HEIGHT, "width": WIDTH, "id": 1}]


@pytest.mark.parametrize("rewritten", [False, True])
def test_masks_are_read_beside_the_image_by_their_ids(root: Path, rewritten: bool) -> None:
    index(root)
    sidecar = root / "SA1B_scaleup/images/sa_000000/sa_1.json"
    if rewritten:  # as the published conversion leaves it
        content = json.loads(sidecar.read_text())
        content["annotations"] = [MASKS[i] for i in (1, 2, 3)]
        sidecar.write_text(json.dumps(content))
    objects = source(root).objects(source(root).records[0])
    assert objects.labels.tolist() == [0, 0, 0]
    assert [masks.area(rle) for rle in objects.segmentations] == [48 * 48, 40 * 24, 16 * 16]
    sample = source(root).sample(Draw("sa1b", 0, 3))
    assert sample.masks is not None
    assert len(sample.masks) == len(sample.boxes_xyxy) > 0


def test_tars_are_indexed_and_read_like_the_folders_that_they_hold(root: Path) -> None:
    """As published: members begin with "./", the tar has the name of the folder."""
    from_folder = index(root).read_bytes()
    objects = source(root).objects(source(root).records[0])
    folder = root / "SA1B_scaleup/images/sa_000000"
    with tarfile.open(folder.with_suffix(".tar"), "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, f"./{path.name}")
    shutil.rmtree(folder)
    done = CliRunner().invoke(main, [str(folder.parent), "sa_*.tar", "--out", str(root / "again.json")])
    assert done.exit_code == 0, done.output
    assert (root / "again.json").read_bytes() == from_folder
    in_tar = source(root).objects(source(root).records[0])
    assert [masks.area(rle) for rle in in_tar.segmentations] == [masks.area(rle) for rle in objects.segmentations]
    sample = source(root).sample(Draw("sa1b", 0, 3))
    assert sample.masks is not None
    assert len(sample.masks) > 0


def test_several_folders_make_one_index_in_their_order(root: Path, tmp_path: Path) -> None:
    images = root / "SA1B_scaleup" / "images"
    shutil.copytree(images / "sa_000000", images / "sa_000001")
    (images / "sa_000001" / "sa_1.json").write_text(
        (images / "sa_000001" / "sa_1.json").read_text().replace('"image_id": 1', '"image_id": 2')
    )
    counts = write_index(images, ["sa_000001", "sa_000000"], tmp_path / "out.json", workers=2)
    content = json.loads((tmp_path / "out.json").read_text())
    assert counts == (2, 6) == (len(content["images"]), len(content["annotations"]))
    assert [image["id"] for image in content["images"]] == [2, 1]
    assert write_index(images, ["sa_000001", "sa_000000"], tmp_path / "parts") == counts
    parts = sorted((tmp_path / "parts").iterdir())
    assert [path.name for path in parts] == ["sa_000000.json", "sa_000001.json"]
    assert [json.loads(path.read_text())["images"][0]["id"] for path in parts] == [1, 2]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_an_index_in_many_files_is_one_source(root: Path) -> None:
    images = root / "SA1B_scaleup" / "images"
    shutil.copytree(images / "sa_000000", images / "sa_000001")
    write_index(images, ["sa_000000", "sa_000001"], root / "SA1B_scaleup" / "parts")
    stage = stages("lite")[1]
    sa1b = stage.data.sources["sa1b"].replace(annotations="SA1B_scaleup/parts/*.json")
    changed = stage.replace(data=stage.data.replace(sources={"sa1b": sa1b}))
    made = build(changed, "train", DataContext(root, root / "cache", "lite", 0, ("sa1b",))).sources["sa1b"]
    assert [record.image for record in made.records] == ["sa_000000/sa_1.png", "sa_000001/sa_1.png"]
    assert made.sample(Draw("sa1b", 1, 3)) is not None


def test_a_missing_file_a_foreign_one_and_a_missing_mask_are_named(root: Path) -> None:
    index(root)
    sidecar = root / "SA1B_scaleup/images/sa_000000/sa_1.json"
    content = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps({**content, "annotations": MASKS[:2]}))
    with pytest.raises(DataError, match=r"annotation 12 of the index(.|\n)*sa_1\.json"):
        source(root).sample(Draw("sa1b", 0, 0))
    sidecar.write_text("[1, 2]")
    with pytest.raises(DataError, match="not the annotations of an SA-1B image"):
        source(root).sample(Draw("sa1b", 0, 0))
    sidecar.unlink()
    with pytest.raises(DataError, match="no file with masks beside the image"):
        source(root).sample(Draw("sa1b", 0, 0))


def test_the_command_names_a_damaged_file_and_writes_nothing(root: Path) -> None:
    images, out = root / "SA1B_scaleup" / "images", root / "index.json"
    (images / "sa_000000" / "sa_2.json").write_text('{"image": {}, "annotations": []}')
    done = CliRunner().invoke(main, [str(images), "sa_000000", "--out", str(out)])
    assert done.exit_code == 1
    assert "sa_2.json" in done.output
    assert "DataError: not the annotations of an SA-1B image" in done.output
    assert not out.exists()
