"""`mmcore predict` in every mode, with a model that knows one picture by heart."""

import json
from pathlib import Path
from typing import Any

import pytest
from mmcore.cli import main
from mmcore.data.demo.named_shapes import draw_scene
from mmcore_glamm.data.demo import write_demo
from mmcore_glamm.data.templates import BANKS

SETTINGS = (
    "steps=100",
    "global_batch=4",
    "micro_batch=4",
    "data.mixture.weights={cap: 1, reg: 1, seg: 1}",
    "frozen=[tower, sam.image_encoder, sam.prompt_encoder]",
    "validation={}",
    "eval_every=null",
    "best_metric=null",
)
"""What makes a picture known soon."""
SCENE = draw_scene(0, 0)


def command(arguments: list[object]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    assert caught.value.code == 0


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sample data `data` and the run `run`, trained on everything that is said of one picture."""
    folder = tmp_path_factory.mktemp("learned")
    write_demo(folder / "data", train=1, val=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMCORE_CACHE", str(folder / "cache"))
        begin = ["train", "--plugin", "glamm", "--stage", "combined", "--variant", "tiny", "--init", "random"]
        quick = [word for setting in SETTINGS for word in ("--set", setting)]
        command([*begin, *quick, "--workers", 0, "--data", folder / "data", "--out", folder / "run"])
    return folder


def ask(folder: Path, out: Path, *question: str) -> dict[str, Any]:
    """The JSON of the answer to a question about the picture; a drawing lies beside it."""
    image = folder / "data" / "glamm" / "images" / SCENE.name
    command(["predict", folder / "run", image, *question, "--out", out])
    assert (out / f"{image.stem}.png").is_file()
    return json.loads((out / f"{image.stem}.json").read_text())


def test_a_grounded_caption_has_a_mask_for_each_phrase(learned: Path, tmp_path: Path) -> None:
    found = ask(learned, tmp_path, "--prompt", BANKS["gcg"].wordings[0])
    assert found["text"].replace(" .", ".") == SCENE.caption
    said = [found["text"][phrase["start"] : phrase["end"]] for phrase in found["phrases"]]
    assert sorted(said) == sorted(shape.phrase for shape in SCENE.shapes)
    assert [found["objects"][phrase["objects"][0]]["name"] for phrase in found["phrases"]] == said
    assert all(one["mask"]["size"] == list(SCENE.size) for one in found["objects"])


def test_what_is_named_becomes_a_mask_of_that_name(learned: Path, tmp_path: Path) -> None:
    name = SCENE.shapes[0].kind
    found = ask(learned, tmp_path, "--names", name)
    assert [one["name"] for one in found["objects"]] == [name]
    assert found["phrases"] == []


def test_a_box_is_answered_in_words_and_shown(learned: Path, tmp_path: Path) -> None:
    left, top, width, height = SCENE.shapes[0].box_xywh
    box = [left, top, left + width, top + height]
    found = ask(learned, tmp_path, "--prompt", BANKS["region"].wordings[1].replace("<region>", f"region1 {box}"))
    assert found["objects"] == []
    assert found["regions"] == [{"box_xyxy": box, "text": found["text"]}]
    assert found["text"] in {shape.phrase for shape in SCENE.shapes}


def test_a_plain_question_is_answered_without_masks(learned: Path, tmp_path: Path) -> None:
    found = ask(learned, tmp_path, "--prompt", BANKS["caption"].wordings[5])
    assert found["objects"] == found["phrases"] == []
    assert any(shape.phrase in found["text"] for shape in SCENE.shapes)
    assert "regions" not in found
