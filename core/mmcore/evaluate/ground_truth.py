"""Annotation files as evaluators need them: read once, checked, masks as safe compressed RLE."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcore.base import tamed
from mmcore.contract.values import Prediction
from mmcore.data.formats.plain_values import area_of, clean_annotation, clean_category, clean_image, flag, is_number
from mmcore.data.records import Records
from mmcore.errors import DataError, MissingDataError, ShapeError
from mmcore.geometry import masks
from mmcore.geometry.boxes import xyxy_to_xywh

Item = dict[str, Any]
"""What an evaluator keeps of one image: its id, labels, scores, xywh boxes and RLE masks, JSON-serialisable."""


def read_annotations(path: Path) -> dict[str, Any]:
    """A COCO-format annotation file, with the lists every evaluator reads checked for being there.

    Raises:
        MissingDataError: there is no such file.
        DataError: it is not COCO JSON.
    """
    try:
        found = tamed.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise MissingDataError("there is no annotation file", where=path, do="check the data root and --on") from None
    except (OSError, ValueError) as error:
        raise DataError(f"the annotation file cannot be read: {error}", where=path) from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(found, dict) or not isinstance(found.get(key), list):
            raise DataError(f"the annotation file has no list {key!r}", where=path, do="give a file in COCO format")
    cleaned = {"images": clean_image, "annotations": clean_annotation, "categories": clean_category}
    return {**found, **{key: [clean(one) for one in found[key]] for key, clean in cleaned.items()}}


def ground_truth_mask(annotation: Mapping[str, Any], height: int, width: int, path: Path) -> masks.Rle | None:
    """The mask of an annotation as compressed RLE, or None where it has none.

    Raises:
        DataError: the segmentation is malformed; names file and annotation.
    """
    segmentation = annotation.get("segmentation")
    where = f"{path}, annotation {annotation.get('id')}"
    if not segmentation:
        return None
    if isinstance(segmentation, Mapping):
        return masks.compress(segmentation, where=where)
    polygons = masks.valid_polygons(segmentation)
    return masks.polygons_to_rle(polygons, height, width, where=where) if polygons else None


def as_coco(records: Records) -> dict[str, Any]:
    """Records of any format of objects as the COCO data set that evaluators read.

    Args:
        records: of the validation set, records without objects included. What cannot be used has been left out of
            them, and a record that cannot be used at all raises when it is evaluated.
    """
    meta = records.index.meta
    images, annotations = [], []
    for record in records:
        images.append({"id": record.id, "file_name": record.image, "height": record.height, "width": record.width})
        for item in record.objects:
            one = {
                "id": len(annotations) + 1,
                "image_id": record.id,
                "category_id": meta["category_ids"][item.category],
            }
            one |= {"bbox": list(item.box_xywh), "area": item.area, "iscrowd": int(item.crowd)}
            annotations.append({**one, "segmentation": item.segmentation})
    categories = [{"id": id_, "name": name} for id_, name in zip(meta["category_ids"], meta["categories"], strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}


def ground_truth_object(annotation: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """An annotation as pycocotools may have it: a box of four numbers, a crowd flag of 0 or 1, an area, which is that
    of the box where the annotation states none.

    Its matching runs in C, which takes a box that is an object of the file for run lengths, and reads them.

    Raises:
        DataError: the box or the flag is something else; names file and annotation.
    """
    where = f"{path}, annotation {annotation.get('id')}"
    box = annotation.get("bbox")
    if not (isinstance(box, list | tuple) and len(box) == 4 and all(is_number(side) for side in box)):
        raise DataError(f"bbox {box!r:.80} is not [x, y, width, height]", where=where)
    crowd, area = flag(annotation.get("iscrowd")), area_of(annotation)
    if crowd is None:
        raise DataError(f"iscrowd {annotation['iscrowd']!r:.80} is neither 0 nor 1", where=where)
    area = box[2] * box[3] if area is None else area
    return {**annotation, "bbox": list(box), "iscrowd": int(crowd), "area": area}


def item_of(prediction: Prediction) -> Item:
    """One prediction as plain lists; boxes become xywh as COCO files have them, in the precision they came in."""
    boxes, scores, labels = prediction.boxes_xyxy, prediction.scores, prediction.labels
    item: Item = {"image_id": prediction.image_id, "boxes": [] if boxes is None else xyxy_to_xywh(boxes).tolist()}
    num_objects = len(item["boxes"]) or len(prediction.masks or ())
    item["scores"] = [1.0] * num_objects if scores is None else scores.tolist()
    item["labels"] = [0] * num_objects if labels is None else labels.tolist()
    if prediction.masks is not None:
        item["masks"] = [{"size": list(rle["size"]), "counts": rle["counts"]} for rle in prediction.masks]
    return item


def once_per_image(items: Sequence[Item], known: Mapping[Any, Any], path: Path) -> list[Item]:
    """The items in order of image, each image once however many processes saw it.

    Raises:
        DataError: an image that the annotation file does not have.
    """
    first = {item["image_id"]: item for item in reversed(items)}
    for image_id in first:
        if image_id not in known:
            raise DataError(f"image {image_id} was predicted but is not annotated", where=path)
    return [first[image_id] for image_id in in_order(first)]


def in_order(ids: Iterable[Any]) -> list[Any]:
    """Distinct ids of images, those that are numbers first: a file may have both (hashes, some of digits only)."""
    return sorted(set(ids), key=lambda one: (isinstance(one, str), one))


def check_masks(item: Item, height: int, width: int) -> list[masks.Rle]:
    """The masks of an item, proven to be run lengths that fill its image.

    Raises:
        DataError: run lengths that are malformed, or do not fill their size.
        ShapeError: a mask has another size than the image, or there is not one for every box.
    """
    found = item.get("masks") or []
    if len(found) != len(item["scores"]):
        raise ShapeError(f"{len(found)} masks for {len(item['scores'])} objects", where=f"image {item['image_id']}")
    for rle in found:
        if rle["size"] != [height, width]:
            sizes = f"{rle['size']} for an image of {[height, width]}"
            raise ShapeError(f"a mask of {sizes}", where=f"image {item['image_id']}")
    return [masks.compress(rle, where=f"prediction for image {item['image_id']}") for rle in found]
