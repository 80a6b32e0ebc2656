"""The JSON file with masks that SA-1B has beside each image, in a folder or in the tar that image and file came in."""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from mmcore.base import tamed
from mmcore.data.pictures import Pictures, bytes_at
from mmcore.errors import DataError, MissingDataError

SIDECARS = "SA-1B index and sidecars"
"""Name of the format: who reads such records takes the masks from `sidecar_masks`."""


def sidecar_masks(images: Pictures, image: str, ids: Sequence[int], where: str) -> list[dict[str, Any]]:
    """The masks of some annotations, from the JSON file beside an image.

    Args:
        images: that hold the image, and the file.
        image: its name, as the record has it.
        ids: of the annotations that the index keeps.
        where: of the index, for errors.

    Raises:
        DataError: the file is missing, is something else, or lacks one of the annotations.
    """
    name = PurePosixPath(image).with_suffix(".json").as_posix()
    try:
        content, place = bytes_at(images, name)
    except MissingDataError as error:
        raise DataError(
            "there is no file with masks beside the image",
            where=f"{error.where}, {name}, {where}",
            do="SA-1B comes with one JSON file for each image; unpack both into one folder, or leave both in their tar",
        ) from None
    annotations = {one["id"]: one["segmentation"] for one in parsed_sidecar(content, f"{place}, {where}")[1]}
    for id_ in ids:
        if id_ not in annotations:
            raise DataError(
                f"annotation {id_} of the index is not among the {len(annotations)} of the file beside the image",
                where=f"{place}, {where}",
                do="make the index again from these files: python -m mmcore.data.formats.sa1b --help",
            )
    return [annotations[id_] for id_ in ids]


def parsed_sidecar(content: bytes, place: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What such a file says of its image, and its annotations.

    Args:
        content: of the file.
        place: of the file, for errors.

    Raises:
        DataError: it is something else.
    """
    try:
        told = tamed.loads(content)
        image, annotations = told["image"], told["annotations"]
        if {"image_id", "file_name", "height", "width"} - image.keys():
            raise ValueError("the image has no image_id, file_name, height or width")
        for annotation in annotations:
            if {"id", "area", "bbox", "segmentation"} - annotation.keys():
                raise ValueError("an annotation has no id, area, bbox or segmentation")
        return image, annotations
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"not the annotations of an SA-1B image: {error}", where=place) from None
