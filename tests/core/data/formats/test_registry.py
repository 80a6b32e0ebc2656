"""One registry: every format writes a sample, is recognised by it, is read back, and says what it can teach."""

import json
from pathlib import Path

import pytest
from mmcore.contract.protocols import DataContext
from mmcore.contract.recipe import Recipe, Source
from mmcore.data.entry import open_entry
from mmcore.data.formats.format import TASKS, Format
from mmcore.data.formats.registry import Formats
from mmcore.data.grounded import GroundedIndex
from mmcore.data.records import Record, Records
from mmcore.data.videos import VideoRecord, VideoRecords
from mmcore.errors import DataError, MissingDataError, PluginError, RecipeError, UnsafeDataError
from mmcore.evaluate.protocols import PROTOCOLS

FORMATS = Formats.of()
SAMPLED = [name for name, format in FORMATS.items() if format.sample is not None]


class Options(Recipe):
    """Of a family in these tests."""

    task: str | None = None


def opened(root: Path, format: str, annotations: str | tuple[str, ...], images: str = "", **options: object):
    source = Source(weight=1.0, format=format, annotations=annotations, images=images, options=options)
    context = DataContext(root, root / "cache", "tiny", 0)
    return open_entry("mine", source, context, FORMATS, tasks=tuple(TASKS), options=Options)


@pytest.mark.parametrize("name", SAMPLED)
def test_a_sample_is_recognised_by_content_and_read_back(tmp_path: Path, name: str) -> None:
    assert FORMATS[name].sample is not None
    written = FORMATS[name].sample(tmp_path)
    entry = opened(tmp_path, name, written.annotations, written.images)
    if FORMATS[name].sniff is not None:
        assert FORMATS.recognise(entry.files[0]).name == name
    if FORMATS[name].content == "questions":
        return
    index = entry.index()
    assert len(index) >= 4
    if FORMATS[name].content == "conversations":
        assert not index.column("bad").any()
        return
    if FORMATS[name].content == "grounded":
        spoken = GroundedIndex(index)
        assert len(spoken) == len(index)
        assert all(spoken[position].parts for position in range(len(spoken)))
        return
    records = VideoRecords(index) if FORMATS[name].content == "videos" else Records(index)
    assert len(records) == len(index)
    found: list[Record | VideoRecord] = [records[position] for position in range(len(records))]
    assert all(record.objects and not record.defects for record in found)
    assert all((entry.images / record.image).is_file() for record in found)
    assert bool(index.column("has_mask").any()) <= FORMATS[name].has_masks


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_says_what_it_teaches_and_how_it_is_judged(name: str) -> None:
    format = FORMATS[name]
    assert format.tasks
    assert set(format.tasks) <= set(TASKS)
    assert format.title.rstrip(".") == format.title != ""
    assert format.evaluator is None or format.evaluator in PROTOCOLS
    assert (format.parser is None) == (format.content == "questions")


def test_a_second_format_of_one_name_and_an_unknown_task_are_refused() -> None:
    extra = Format(name="COCO instances", title="again", content="objects", tasks=("detect",))
    with pytest.raises(PluginError, match="two annotation formats"):
        Formats.of([extra])
    with pytest.raises(PluginError, match=r"'detct'(.|\n)*did you mean 'detect'"):
        Formats.of([Format(name="mine", title="mine", content="objects", tasks=("detct",))])
    assert "mine" in Formats.of([Format(name="mine", title="mine", content="objects", tasks=("detect",))])


def test_a_format_that_serves_nothing_of_what_is_wanted_is_refused_with_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'LLaVA JSON' serves converse; wanted is detect(.|\n)*COCO boxes"):
        FORMATS.named("LLaVA JSON", "source 'a'", ("detect",))
    (tmp_path / "a.json").write_text(json.dumps({"what": 1}))
    with pytest.raises(DataError, match=r"not clear which annotation format(.|\n)*COCO instances"):
        FORMATS.recognise(tmp_path / "a.json")


@pytest.mark.parametrize("path", ["/etc/passwd", "../secret.json", "coco/../../secret.json", "C:\\secret.json"])
def test_a_recipe_path_never_leaves_the_data_root(tmp_path: Path, path: str) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (tmp_path / "secret.json").write_text("{}")
    with pytest.raises(UnsafeDataError, match="data root"):
        opened(root, "COCO instances", path)
    (root / "inside.json").write_text("{}")
    with pytest.raises(UnsafeDataError, match="data root"):
        opened(root, "COCO instances", "inside.json", images=path)


def test_options_are_typed_and_unknown_ones_are_refused_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(RecipeError, match=r"no option 'tsk'(.|\n)*did you mean 'task'"):
        opened(tmp_path, "COCO instances", "a.json", tsk="coco")
    with pytest.raises(RecipeError, match="requests"):
        opened(tmp_path, "COCO captions", "a.json", requests="Describe")
    with pytest.raises(RecipeError, match="2 annotation files"):
        opened(tmp_path, "RefCOCO", "a.json")
    with pytest.raises(MissingDataError, match=r"missing\.json, which is not there"):
        opened(tmp_path, "COCO instances", "missing.json")
    assert opened(tmp_path, "COCO captions", "a.json", requests=("Describe",), task="x").options.task == "x"
