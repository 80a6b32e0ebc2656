"""Published lists of tasks, annotations and image folders: read as they stand, wrong lines named."""

from pathlib import Path

import pytest
from mmcore.errors import DataError, MissingDataError
from mmcore_griffon.data.list_file import Line, read_list, sources
from mmcore_griffon.stages import stages

STAGES = {stage.name: stage for stage in stages("tiny")}
# Every form that scripts/datasets/{pretrain,sft,visual_tokenizer}.txt have: a slash at the end of a folder, the root of
# the disk for text, folders in other scripts, blanks, no line end at the end.
PUBLISHED = """DET_2 & v3det_det.jsonl & V3DET/V3Det/
REG_0 & flicks_reg.jsonl & flickr30k-images
VG_1 & refcoco_vg_discrete.jsonl & coco/train2014
RANDDET_1 & vg_randet_53134.jsonl & VG/VG_ALL
LAZY_7 & code_instruction_clean_78258k.json & /
VISJ_1 & CT-datasetv2/交通运输/vehicles_v2/Annotations.jsonl & CT-datasetv2/交通运输"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "list.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_published_form_of_a_line_is_read(tmp_path: Path) -> None:
    lines = read_list(written(tmp_path, PUBLISHED))
    assert [line.type for line in lines if isinstance(line, Line)] == ["DET", "REG", "VG", "RANDDET", "LAZY", "VISJ"]
    assert lines[4][2:4] == ("code_instruction_clean_78258k.json", "/")
    assert lines[5][3] == "CT-datasetv2/交通运输"  # type: ignore[misc]


def laid_out(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.endswith("/") else path.write_text("{}")


def test_lines_become_sources_with_their_task(tmp_path: Path) -> None:
    root, beside = tmp_path / "data", tmp_path / "lists"
    laid_out(root, "griffon/v3det_det.jsonl", "V3DET/V3Det/", "griffon/code.json")
    laid_out(beside, "own.jsonl", "photos/")
    path = beside / "sft.txt"
    path.write_text("DET_2 & v3det_det.jsonl & V3DET/V3Det/\nLAZY_7 & code.json & /\nVISJ_0 & own.jsonl & photos\n")
    found = sources(path, root, STAGES["instruct"])
    assert [(name, one.format, one.group) for name, one in found.items()] == [
        ("DET_2", "DET lines", "localisation"),
        ("LAZY_7", "LLaVA JSON", "general"),
        ("VISJ_0", "VISJ lines", "visual-prompt"),
    ]
    assert (found["DET_2"].annotations, found["DET_2"].images) == ("griffon/v3det_det.jsonl", "V3DET/V3Det")
    assert (found["LAZY_7"].images, found["DET_2"].root) == ("", "")
    assert found["VISJ_0"].root == str(beside), "beside the list"
    assert {one.group for one in sources(path, root, STAGES["pretrain"]).values()} == {None}


def test_a_list_of_lists_takes_shares(tmp_path: Path) -> None:
    laid_out(tmp_path, "griffon/a.jsonl", "griffon/b.jsonl", "photos/")
    (tmp_path / "multi.txt").write_text("DET_0 & a.jsonl & photos\nVG_0 & b.jsonl & photos")
    (tmp_path / "text.txt").write_text("REG_0 & a.jsonl & photos")
    found = sources(written(tmp_path, "0.5 & multi.txt\n1 & text.txt"), tmp_path, STAGES["pretrain"])
    assert [found[name].options.get("share") for name in ("DET_0", "VG_0", "REG_0")] == [0.5, 0.5, None]
    assert found["DET_0"].options["share_of"] == found["VG_0"].options["share_of"]


@pytest.mark.parametrize(
    ("line", "what", "do"),
    [
        ("DET_1 & a.jsonl", "2 parts between `&`, not 3", None),
        ("DET_1 & a & b & c", "4 parts between `&`, not 3", None),
        ("DOT_1 & a.jsonl & photos", "there is no task type 'DOT'", "did you mean 'DET'?"),
        ("VG_1 &  & photos", "the annotation is empty", None),
        ("VG_1 & a.jsonl & ", "the image folder is empty", None),
        ("2.5 & multi.txt", "share 2.5 is not above 0 and at most 1", None),
        ("DET_0 & a.jsonl & photos", "'DET_0' stands in line 1 already", None),
    ],
)
def test_a_wrong_line_is_named_with_its_number(tmp_path: Path, line: str, what: str, do: str | None) -> None:
    with pytest.raises(DataError) as caught:
        read_list(written(tmp_path, f"DET_0 & a.jsonl & photos\n\n{line}\n"))
    assert what in caught.value.what
    assert caught.value.where == f"{tmp_path / 'list.txt'}, line 3"
    assert do is None or caught.value.do == do


def test_a_file_or_folder_that_is_missing_is_named_with_its_line(tmp_path: Path) -> None:
    laid_out(tmp_path, "griffon/a.jsonl")
    with pytest.raises(MissingDataError) as caught:
        sources(written(tmp_path, "DET_0 & a.jsonl & photos"), tmp_path, STAGES["pretrain"])
    assert "photos is not there" in caught.value.what
    assert str(caught.value.where).endswith("line 1")
