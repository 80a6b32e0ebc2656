"""From an entry of a recipe to what lies on disk: its format, its typed options, its files, its index of records.

Every family opens its sources and validation sets with `open_entry`, so paths are resolved, options are checked and
formats are known in one place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from mmcore.contract.protocols import DataContext
from mmcore.contract.recipe import Recipe, Source, Stage, Validation
from mmcore.data.formats.classes import has_classes
from mmcore.data.formats.format import Format
from mmcore.data.formats.opening import open_records, says_sizes
from mmcore.data.formats.registry import Formats
from mmcore.data.images import locate
from mmcore.data.index import Index
from mmcore.data.patterns import is_pattern, locate_all
from mmcore.data.pictures import Pictures, open_images
from mmcore.errors import RecipeError, suggest

Entry = Source | Validation
IN_MANY_FILES = ("objects", "conversations", "videos")
"""Contents whose training sources may be in any number of files."""
Own = TypeVar("Own", bound=Recipe)
"""A family's own options of an entry."""


@dataclass(frozen=True, slots=True)
class Opened(Generic[Own]):
    """An entry whose files are there and whose options are checked.

    Attributes:
        name: under which the recipe knows it.
        format: of its annotations.
        tasks: what it is wanted for, of what its format serves and the family can do.
        options: what the family understands of the entry's options.
        format_options: what the format understands of them.
        files: its annotation files.
        images: folder below which the records' images lie, or what stands in its place.
        cache: folder that holds indexes.
        own: whether it is somebody's own data, described by an own-data file.
    """

    name: str
    format: Format
    tasks: tuple[str, ...]
    options: Own
    format_options: Any
    files: tuple[Path, ...]
    images: Pictures
    cache: Path
    own: bool = False
    classes: Mapping[str, str] = field(default_factory=dict)
    """What its classes are called, where that is not what the annotations say."""
    class_names: tuple[str, ...] = ()
    """Classes of the data set that it belongs to, where that is own data beside others."""
    key: str = ""
    """Its place in the recipe, for remedies: `validation.coco_val`."""

    def index(self) -> Index:
        """The index of its records, built now if it does not exist.

        Raises:
            DataError: a file is not what the format says.
        """
        key, classes = f"{self.key}.classes", self.classes
        return open_records(self.format, self.files, self.format_options, lambda: self.images, self.cache, classes, key)

    def truth(self, index: Index) -> Path | None:
        """The annotation file, where evaluators compare with it as it is; None where they take the records of it."""
        return self.files[0] if self.format.truth == "file" and says_sizes(index) else None


def open_entry(
    name: str,
    entry: Entry,
    context: DataContext,
    formats: Formats,
    *,
    tasks: Sequence[str],
    options: type[Own],
) -> Opened[Own]:
    """Find an entry's files and check its options.

    Args:
        name: of the entry.
        entry: a source or a validation set of the recipe.
        context: where data lies.
        formats: all that are known.
        tasks: what the family can do with it; a format that serves none of them is refused.
        options: what the family understands of the entry's options.

    Raises:
        DataError: the format is not known, or serves none of the tasks.
        RecipeError: an option does not exist or does not fit, or the number of files is another.
        MissingDataError: a file or folder is not there.
        UnsafeDataError: a path leaves its root.
    """
    what = f"source {name!r}"
    wanted = [task for task in tasks if not entry.tasks or task in entry.tasks]
    format = formats.named(entry.format, f"{what}, {_listed(entry)}", wanted or entry.tasks)
    of_format, of_family = _checked_options(entry.options, format.options, options, what)
    if entry.classes:
        format = _with_classes(format, entry, what)
    root = Path(entry.root or context.root)
    images = open_images(
        root, entry.images, what, context.cache
    )  # looked for first: without it annotations are of no use
    return Opened(
        name=name,
        format=format,
        tasks=format.serves(wanted),
        options=of_family,
        format_options=of_format,
        files=_files(entry, format, root, what),
        images=images,
        cache=context.cache,
        own=bool(entry.root),
        classes=entry.classes,
        class_names=entry.class_names,
        key=f"{'data.sources' if isinstance(entry, Source) else 'validation'}.{name}",
    )


Placed = TypeVar("Placed", bound=Entry)


def placed(entry: Placed, root: Path, other_places: Mapping[str, Sequence[str]]) -> Placed:
    """The entry with those of its paths that lie in another known place; own data lie where their file says.

    Args:
        entry: a source or a validation set of a recipe.
        root: data root.
        other_places: a documented path -> where else the same is found: other layouts, folders of a set taken alone.
    """
    if entry.root:
        return entry

    def found(path: str) -> str:
        if not path or (root / path).exists():
            return path
        known = [one for one in other_places if path == one or path.startswith(f"{one}/")]
        elsewhere = [other + path[len(one) :] for one in known for other in other_places[one]]
        return next((other for other in elsewhere if (root / other).exists()), path)

    given = entry.annotations
    annotations = found(given) if isinstance(given, str) else tuple(found(one) for one in given)
    return entry.replace(annotations=annotations, images=found(entry.images))


def _with_classes(format: Format, entry: Entry, what: str) -> Format:
    """The format with evaluators comparing with the records, where its classes are called otherwise.

    Raises:
        RecipeError: it has no classes, or its protocol knows them by their numbers.
    """
    if not has_classes(format):
        raise RecipeError(
            f"what {format.name} describes is called in free words, not by classes",
            where=f"{what}, classes",
            do="leave `classes` out",
        )
    if isinstance(entry, Validation) and format.evaluator == "lvis":
        raise RecipeError(
            f"the protocol of {format.name} is about the classes of the annotations as they are",
            where=f"{what}, classes",
            do='leave it out, or evaluate with the format "COCO instances"',
        )
    return replace(format, truth="records")


def asks(opened: Opened[Own]) -> bool:
    """Whether the records of an entry hold captions alone, so that a bank of wordings asks for them."""
    return "requests" in getattr(type(opened.format_options), "model_fields", {})


def worded(opened: Opened[Own], requests: Sequence[str]) -> Opened[Own]:
    """The entry with these requests, unless its own options give some or its records hold what is asked."""
    if not asks(opened) or opened.format_options.requests is not None:
        return opened
    return replace(opened, format_options=opened.format_options.replace(requests=tuple(requests)))


def chosen(entries: Mapping[str, Source], context: DataContext) -> dict[str, Source]:
    """The training sources that a run draws from: those with a weight, narrowed by --sources."""
    return {
        name: source
        for name, source in entries.items()
        if source.weight > 0 and (context.only is None or name in context.only)
    }


def chosen_validations(stage: Stage, context: DataContext, *, suffixed: bool = False) -> dict[str, Validation]:
    """The validation sets of a run: those named by --sources, else those of the chosen sources, else all.

    A set says in its option `of` which training source it belongs to; without it, own sets are called NAME_val, and a
    recipe's set belongs to the source of its name.

    Args:
        stage: the recipe.
        context: of the run.
        suffixed: whether the recipe's sets are called NAME_val as well.
    """
    entries, only = stage.validation, context.only
    if only is None:
        return dict(entries)
    named = {name: entry for name, entry in entries.items() if name in only}
    return named or {name: entry for name, entry in entries.items() if _of(name, entry, suffixed) in only}


def _of(name: str, entry: Validation, suffixed: bool) -> str:
    return str(entry.options.get("of", name.partition("_val")[0] if entry.root or suffixed else name))


def _listed(entry: Entry) -> str:
    return entry.annotations if isinstance(entry.annotations, str) else ", ".join(entry.annotations)


def _files(entry: Entry, format: Format, root: Path, what: str) -> tuple[Path, ...]:
    given = (entry.annotations,) if isinstance(entry.annotations, str) else entry.annotations
    if len(given) > len(format.files) == 1 or (is_pattern(given[0]) and not (root / given[0]).exists()):
        return _many(entry, given, format, root, what)
    if len(given) != len(format.files):
        raise RecipeError(
            f"{format.name} takes {len(format.files)} annotation file{'s' if len(format.files) > 1 else ''} "
            f"({', '.join(format.files)}), not {len(given)}",
            where=f"{what}, annotations",
            do=f"write annotations: [{', '.join(format.files)}]",
        )
    return tuple(locate(root, path, what, also=None if i else format.also) for i, path in enumerate(given))


def _many(entry: Entry, given: Sequence[str], format: Format, root: Path, what: str) -> tuple[Path, ...]:
    """Several files of one source, listed or meant by patterns."""
    if isinstance(entry, Validation) or len(format.files) > 1 or format.content not in IN_MANY_FILES:
        kind = "a validation set" if isinstance(entry, Validation) else f"a source of {format.name}"
        files = "one annotation file" if len(format.files) == 1 else f"{len(format.files)} annotation files"
        raise RecipeError(
            f"{kind} has {files}, not several that are joined",
            where=f"{what}, annotations: {_listed(entry)}",
            do="name it, or make several entries of it",
        )
    found: list[Path] = []
    for path in given:
        found += locate_all(root, path, what)[1] if is_pattern(path) else [locate(root, path, what, also=format.also)]
    return tuple(dict.fromkeys(found))


def _checked_options(
    given: Mapping[str, Any], of_format: type[Recipe], of_family: type[Own], what: str
) -> tuple[Recipe, Own]:
    """The options of the format and of the family, each key in exactly one of them."""
    known = [*of_family.model_fields, *of_format.model_fields]
    for key in given:
        if key not in known:
            raise RecipeError(
                f"a source has no option {key!r}",
                where=f"{what}, options",
                known=known,
                do=suggest(key, known, "remove it or choose one of these"),
            )
    return _typed(of_format, given, what), _typed(of_family, given, what)


Typed = TypeVar("Typed", bound=Recipe)


def _typed(kind: type[Typed], given: Mapping[str, Any], what: str) -> Typed:
    try:
        return kind.model_validate({key: value for key, value in given.items() if key in kind.model_fields})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = f"{key}: {first['msg'].lower()}, got {first['input']!r}"
        raise RecipeError(message, where=f"{what}, options") from None
