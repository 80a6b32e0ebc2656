"""ODinW-13: thirteen small detection sets from anywhere, asked without training on them, and trained on one by one.

The published code registers the validation splits under the names below and announces a fine-tune that never came.
"""

from mmcore import Source, Stage, Validation, WholeEpochs

from mmcore_glee.recipes.multiscale import LITE_FINETUNE

_ANNOTATIONS = "annotations_without_background.json"
SETS = {
    "AerialDrone": ("AerialMaritimeDrone/large", "train", "valid"),
    "Aquarium": ("Aquarium/Aquarium Combined.v2-raw-1024.coco", "train", "valid"),
    "Rabbits": ("CottontailRabbits", "train", "valid"),
    "EgoHands": ("EgoHands/generic", "train", "mini_val"),
    "Mushrooms": ("NorthAmericaMushrooms/North American Mushrooms.v1-416x416.coco", "train", "valid"),
    "Packages": ("Packages/Raw", "train", "valid"),
    "PascalVOC": ("PascalVOC", "train", "valid"),
    "Pistols": ("pistols", "export", "export"),
    "Pothole": ("pothole", "train", "valid"),
    "Raccoon": ("Raccoon/Raccoon.v2-raw.coco", "train", "valid"),
    "Shellfish": ("ShellfishOpenImages/raw", "train", "valid"),
    "Thermal": ("thermalDogsAndPeople", "train", "valid"),
    "Vehicles": ("VehiclesOpenImages/416x416", "train", "mini_val"),
}
"""Folder below odinw/dataset, and its folders for training and validation."""


def _place(name: str, *, training: bool) -> tuple[str, str]:
    """Annotation file and image folder of a split."""
    folder, train, valid = SETS[name]
    images = f"odinw/dataset/{folder}/{train if training else valid}"
    file = _ANNOTATIONS
    if train == valid:  # one folder of pictures, one file a split
        file = f"{'train' if training else 'val'}_{file}"
    return f"{images}/{file}", images


def _source(name: str) -> Source:
    annotations, images = _place(name, training=True)
    options = {"task": f"odinw13_{name}"}
    return Source(weight=1.0, format="COCO boxes", annotations=annotations, images=images, options=options)


def _validation(name: str) -> Validation:
    annotations, images = _place(name, training=False)
    return Validation(
        metrics=("bbox/AP",),
        annotations=annotations,
        images=images,
        format="COCO boxes",
        options={"task": f"odinw13_{name}"},
    )


def stage(finetune: Stage = LITE_FINETUNE) -> Stage:
    """The stage of one published size: all thirteen sets, of which `--sources` picks.

    Args:
        finetune: of the size, whose numbers it takes.
    """
    return finetune.replace(
        number=15,
        name="odinw",
        title="detection in the wild: ODinW-13, zero-shot (mmcore eval) or trained on",
        origin="assumed; sets and names as the code registers them, numbers of the fine-tune stage",
        notes=(
            "zero-shot: mmcore eval of the published weights with this stage asks all thirteen sets",
            "training: one set at a time, --sources odinw13_Raccoon, as ODinW reports it",
        ),
        data=finetune.data.replace(
            sources={f"odinw13_{name}": _source(name) for name in SETS}, mixture=WholeEpochs(by_aspect=True)
        ),
        validation={f"odinw13_{name}_val": _validation(name) for name in SETS},
    )
