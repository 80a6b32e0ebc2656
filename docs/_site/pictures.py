"""The pictures of the README and the site: `make pictures`, from photographs of COCO and from the demo runs.

photographs.jpg     annotated photographs, as `mmcore data show` draws them (CC BY 2.0; see credits.txt)
demo.jpg            what the first demo's detector finds in pictures it has not seen
curves.jpg          its curves
over-time.jpg       the same validation pictures at several of its steps
answers.jpg         what the second demo's language model answers
masks.jpg           captions whose phrases are masks
tracks.jpg          things followed through a clip

What is drawn from a folder that is not there stays as it is.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import mmcore
import torch
from mmcore.contract.values import Prediction
from mmcore.geometry import masks
from mmcore.show.draw import draw_prediction
from mmcore.show.marks import contact_sheet
from mmcore.show.strip import over_time
from PIL import Image, ImageChops
from pycocotools import mask as rle

CC_BY = 4
"""COCO's number of the licence CC BY 2.0, the one that asks for no more than the name."""
QUESTION = "How many shapes are there?"
DESCRIBE = "Describe the image in detail, and mark each thing you mention with its segmentation mask."


def photographs(coco: Path, out: Path, count: int = 3) -> None:
    """Photographs of the validation set with the most kinds of objects, annotations drawn."""
    told = json.loads((coco / "annotations" / "instances_val2017.json").read_text())
    names = {one["id"]: one["name"] for one in told["categories"]}
    objects: dict[int, list[dict]] = {}
    for one in told["annotations"]:
        if not one["iscrowd"] and one["area"] > 1_500:
            objects.setdefault(one["image_id"], []).append(one)
    free = [one for one in told["images"] if one["license"] == CC_BY and 3 <= len(objects.get(one["id"], [])) <= 9]
    free.sort(key=lambda one: -len({entry["category_id"] for entry in objects[one["id"]]}))
    drawn = []
    for one in free[:count]:
        picture = Image.open(coco / "val2017" / one["file_name"]).convert("RGB")
        size, own = (one["height"], one["width"]), objects[one["id"]]
        whole = [rle.merge(rle.frPyObjects(entry["segmentation"], *size)) for entry in own]
        boxes = torch.tensor([entry["bbox"] for entry in own])
        boxes[:, 2:] += boxes[:, :2]
        found = Prediction(
            one["id"], size, boxes, names=tuple(names[entry["category_id"]] for entry in own),
            masks=[masks.encode(rle.decode(entry)) for entry in whole],
        )  # fmt: skip
        drawn.append(draw_prediction(picture, found))
    _save(drawn, out / "photographs.jpg")
    credits_ = "\n".join(f"{one['file_name']}: {one['flickr_url']}, CC BY 2.0" for one in free[:count])
    (out / "credits.txt").write_text(f"Photographs of COCO 2017 in photographs.jpg:\n{credits_}\n")


def demo(run: Path, out: Path, count: int = 3) -> None:
    """Objects that the tiny detector finds, at the threshold of `make demo`."""
    model = mmcore.load(run, device="cpu")
    pictures = sorted((Path(model.opened.settings.data) / "coco/val2017").glob("*.jpg"))[1 : count + 1]
    drawn = [model.predict(path, threshold=0.25).draw() for path in pictures]
    _save(drawn, out / "demo.jpg")


def answers(run: Path, out: Path) -> None:
    """A question that the tiny language model answers."""
    model = mmcore.load(run, device="cpu")
    pictures = sorted((Path(model.opened.settings.data) / "visper/images").glob("50*.jpg"))
    _save([model.predict(path, prompt=QUESTION).draw() for path in pictures[:3]], out / "answers.jpg")


def progress(run: Path, out: Path) -> None:
    """How the detector's training went: curves, and what it found at several steps."""
    _save_narrow(Image.open(run / "curves.png"), out / "curves.jpg", width=1200)
    strips = [(f"step {int(path.stem[5:])}", path) for path in sorted((run / "pictures/coco_val").glob("step-*.jpg"))]
    over_time(strips, records=3).save(out / "over-time.jpg", quality=82)


def masks_in_captions(run: Path, out: Path) -> None:
    """Captions that the tiny GLaMM gives, each phrase in the colour of its mask."""
    model = mmcore.load(run, device="cpu")
    pictures = sorted((Path(model.opened.settings.data) / "glamm/images").glob("50*.jpg"))
    _save([model.predict(path, prompt=DESCRIBE).draw() for path in pictures[:3]], out / "masks.jpg")


def tracks(followed: Path, out: Path) -> None:
    """The first row of frames of the first clip that `make demo-video` followed."""
    sheet = Image.open(min(followed.glob("*.png")))
    _save_narrow(sheet.crop((0, 0, sheet.width, sheet.height // 2)), out / "tracks.jpg", width=1400)


def _save_narrow(picture: Image.Image, target: Path, width: int) -> None:
    picture = picture.convert("RGB")
    if picture.width > width:
        picture = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
    picture.save(target, quality=85)


def _save(drawn: list[Image.Image], path: Path) -> None:
    """Side by side, without the white around them."""
    sheet = contact_sheet(drawn, columns=len(drawn), titles=[""] * len(drawn), cell=420)
    inside = ImageChops.difference(sheet, Image.new("RGB", sheet.size, "white")).getbbox()
    sheet.crop(inside).save(path, quality=88)


DRAW: dict[str, tuple[Callable[[Path, Path], None], ...]] = {
    "detector": (demo, progress),
    "talker": (answers,),
    "masks": (masks_in_captions,),
    "tracks": (tracks,),
    "photographs": (photographs,),
}
"""Option -> what is drawn from the folder it names."""

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for option in (*DRAW, "out"):
        parser.add_argument(f"--{option}", type=Path, required=True)
    given = vars(parser.parse_args())
    given["out"].mkdir(parents=True, exist_ok=True)
    for option, drawings in DRAW.items():
        if not given[option].is_dir():
            print(f"nothing at {given[option]}; what is drawn from it stays as it is", file=sys.stderr)
            continue
        for draw in drawings:
            draw(given[option], given["out"])
