"""Pascal VOC (Everingham et al. 2010): an XML file for every image, as LabelImg, CVAT and Roboflow write them.

    Annotations/a.xml  <annotation><filename>a.jpg</filename><size><width>640</width><height>480</height>...</size>
                       <object><name>cup</name><difficult>0</difficult>
                       <bndbox><xmin>1</xmin><ymin>1</ymin><xmax>64</xmax><ymax>48</ymax></bndbox></object>...
    JPEGImages/a.jpg   or the image beside its XML file
    ImageSets/Main/train.txt   which images a split has; without it all

VOC counts pixels from 1 and its corners belong to the box, so a box of the whole image is 1, 1, width, height.
Objects marked difficult are neither trained on nor mistakes when found, as in the published evaluation.
"""

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcore.contract.recipe import Recipe
from mmcore.data.formats import miniature
from mmcore.data.formats.format import Format, Written
from mmcore.data.formats.glimpse import Glimpse
from mmcore.data.formats.rows import IMAGE_ENDINGS, RowParser, Scanned, make_object, make_record, size_of
from mmcore.data.index import Report
from mmcore.data.records import Defect, Object, Record
from mmcore.errors import DataError, MissingDataError

MAX_BYTES = 1 << 24
"""Of one XML file."""


class VocOptions(Recipe):
    """What a source of VOC files may choose."""

    split: str | None = None
    """A list of ImageSets/Main, such as train or val; None is every XML file."""
    one_based: bool = True
    """Whether pixels count from 1, as VOC's do; some tools count from 0."""


@dataclass(frozen=True)
class VocFolder(RowParser):
    """Parser of a folder of XML files; records are images, named below the folder that is the data set."""

    path: Path
    split: str | None
    one_based: bool

    @property
    def format(self) -> str:
        return "voc/2"

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(self._files())

    @property
    def options(self) -> dict[str, Any]:
        return {"split": self.split, "one_based": self.one_based}

    def scan(self, report: Report) -> Scanned:
        report("reading names", 0.0)
        names: set[str] = set()
        for file in self._files():
            root = read_xml(file)
            names |= {_text(item, "name") for item in root.findall("object")} if root is not None else set()
        return Scanned([str(file) for file in self._files()], sorted(names - {""}))

    def record(self, row: str, number: int, scanned: Scanned) -> Record:
        file = Path(row)
        root = read_xml(file)
        if root is None:
            defect = Defect("annotation", file.name, "not an XML file of VOC", True)
            return Record(file.name, number, 0, 0, (), (), (defect,))
        image = self._image(file, _text(root, "filename"))
        size, found = self._size(root, image)
        objects: list[Object | Defect] = [*found]
        numbers = {name: place for place, name in enumerate(scanned.categories)}
        if not found:
            objects += [
                self._object(item, place, size, numbers) for place, item in enumerate(root.findall("object"), 1)
            ]
        home = dataset_folder(self.path)
        return make_record(image.relative_to(home).as_posix(), number, size, objects)

    def _object(
        self, item: ElementTree.Element, place: int, size: tuple[int, int], numbers: dict[str, int]
    ) -> Object | Defect:
        where, name = f"object {place}", _text(item, "name")
        if name not in numbers:
            return Defect(where, "name", f"{name!r} is no name", True)
        try:
            box = [float(_text(item, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
        except ValueError:
            return Defect(where, "bndbox", "not four numbers xmin, ymin, xmax, ymax", True)
        if self.one_based:
            box = [box[0] - 1, box[1] - 1, box[2], box[3]]
        difficult = _text(item, "difficult") in ("1", "true", "True")
        return make_object(place, box, numbers[name], size, where=where, field="bndbox", ignored=difficult)

    def _size(self, root: ElementTree.Element, image: Path) -> tuple[tuple[int, int], list[Defect]]:
        """Height and width as the file says; where it says 0 or nothing, as the image's header says."""
        try:
            height, width = (int(float(_text(root, f"size/{side}"))) for side in ("height", "width"))
        except ValueError:
            height = width = 0
        return ((height, width), []) if height > 0 and width > 0 else size_of(image)

    def _image(self, file: Path, named: str) -> Path:
        """The image of an XML file: what it names, else the one with its own name; beside it or in JPEGImages."""
        name = named.replace("\\", "/").rpartition("/")[2]
        folders = (file.parent, dataset_folder(self.path) / "JPEGImages", dataset_folder(self.path) / "images")
        for folder in folders:
            for candidate in (name, *(f"{file.stem}{ending}" for ending in IMAGE_ENDINGS)):
                if candidate and (folder / candidate).is_file():
                    return folder / candidate
        return folders[0 if file.parent == dataset_folder(self.path) else 1] / (name or f"{file.stem}.jpg")

    def _files(self) -> list[Path]:
        folder = annotations_folder(self.path)
        if self.split is None:
            return sorted(folder.glob("*.xml"))
        listed = dataset_folder(self.path) / "ImageSets" / "Main" / f"{self.split}.txt"
        if not listed.is_file():
            known = sorted(path.stem for path in listed.parent.glob("*.txt")) if listed.parent.is_dir() else ()
            raise MissingDataError(
                f"there is no list {self.split!r}", where=listed, known=known, do="set options.split"
            )
        return [
            folder / f"{line.split()[0]}.xml" for line in listed.read_text("utf-8-sig").splitlines() if line.strip()
        ]


def annotations_folder(path: Path) -> Path:
    """The folder with the XML files: `Annotations` of the data set, or the folder itself."""
    return path / "Annotations" if (path / "Annotations").is_dir() else path


def dataset_folder(path: Path) -> Path:
    """The folder below which images are named: that of `Annotations`, or the folder itself."""
    return path.parent if path.name == "Annotations" else path


def read_xml(path: Path) -> ElementTree.Element | None:
    """The root of a VOC file, None where it is something else; entities are never expanded.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            return None
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"annotation file cannot be read: {error.strerror}", where=path) from None
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        return None
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError:
        return None
    return root if root.tag == "annotation" else None


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


# ---- format ----


def _is_voc(glimpse: Glimpse) -> bool:
    if glimpse.kind != "folder":
        return False
    first = next(iter(sorted(annotations_folder(glimpse.path).glob("*.xml"))), None)
    return first is not None and read_xml(first) is not None


def _write(folder: Path) -> Written:
    miniature.write_pictures(folder / "JPEGImages")
    (folder / "Annotations").mkdir(exist_ok=True)
    for scene in miniature.scenes():
        root = ElementTree.Element("annotation")
        ElementTree.SubElement(root, "filename").text = miniature.file_name(scene)
        size = ElementTree.SubElement(root, "size")
        for side, value in (("width", scene.width), ("height", scene.height), ("depth", 3)):
            ElementTree.SubElement(size, side).text = str(value)
        for thing in miniature.objects(scene):
            item, (x, y, w, h) = ElementTree.SubElement(root, "object"), thing.box_xywh
            ElementTree.SubElement(item, "name").text = thing.kind
            ElementTree.SubElement(item, "difficult").text = "0"
            box = ElementTree.SubElement(item, "bndbox")
            for side, value in (("xmin", x + 1), ("ymin", y + 1), ("xmax", x + w), ("ymax", y + h)):
                ElementTree.SubElement(box, side).text = str(round(value))
        ElementTree.ElementTree(root).write(folder / "Annotations" / f"{scene.image_id}.xml")
    return Written("")


FORMATS = (
    Format(
        name="Pascal VOC",
        title="an XML file with boxes for every image, in Annotations or beside it",
        short=("voc",),
        content="objects",
        tasks=("detect",),
        parser=lambda files, options: VocFolder(files[0], options.split, options.one_based),
        options=VocOptions,
        files=("the folder",),
        evaluator="coco",
        truth="records",
        metric="bbox/AP",
        sniff=_is_voc,
        sample=_write,
    ),
)
