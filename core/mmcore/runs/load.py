"""A trained model in Python: `mmcore.load("runs/demo").predict("photo.jpg")`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmcore.base import hub
from mmcore.errors import UsageError
from mmcore.runs.build import choose_device
from mmcore.runs.conversation import Conversation
from mmcore.runs.opened import OpenedModel, open_model
from mmcore.runs.predict import Example, Question, draw, missing_picture, predict_image, to_json, with_class_names
from mmcore.runs.visual import read_visual

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from mmcore.contract.values import Prediction

    Picture = str | Path | Image.Image | np.ndarray
    """A file, a PIL image, or (height, width, 3) uint8 RGB."""


def load(
    target: str | Path, *, checkpoint: str = "last", device: Literal["auto", "cpu", "cuda"] = "auto"
) -> "Predictor":
    """A trained model, ready to be asked.

    Args:
        target: a run folder, one of its checkpoints, a folder that `mmcore export --format hf` wrote, or such a folder
            on the Hub (`hf://OWNER/NAME`).
        checkpoint: "last", "best" or a step, for a run folder.
        device: where it runs; "auto" is a GPU where there is one.

    Raises:
        CheckpointError: there is nothing to open, or it is damaged.
        MissingDataError: it is on the Hub and cannot be had.
        PluginError: the family's plugin is missing or broken.
    """
    path = str(target)
    if hub.is_hub(path):
        path = str(hub.fetch(path, do="check the name, or give a folder of this machine"))
    opened = open_model(path, checkpoint=checkpoint)
    return Predictor(opened, choose_device(opened.settings.replace(device=device)))


class Predictor:
    """Answers about pictures, for any family.

    Args:
        opened: the model and the settings it was trained with.
        device: where it is moved.
    """

    def __init__(self, opened: OpenedModel, device: Any) -> None:
        self.opened, self.device = opened, device
        self.model = opened.model.to(device).eval()

    def __repr__(self) -> str:
        settings = self.opened.settings
        return f"<{settings.plugin} {settings.variant}, stage {settings.stage.name}, from {self.opened.origin}>"

    def predict(
        self,
        image: "Picture",
        *,
        names: Sequence[str] | None = None,
        prompt: str | None = None,
        example: "Picture | None" = None,
        visual: str | None = None,
        threshold: float | None = None,
        top: int | None = None,
    ) -> "Answer":
        """What the model says about one picture.

        Args:
            image: a file, a PIL image, or (height, width, 3) uint8 RGB.
            names: what to look for; None is the classes of own data that it was trained on, else the family's names.
            prompt: an expression or a question, instead of names.
            example: what to look for, shown; with a prompt, what is asked about it. For families with visual prompts.
            visual: what to find, pointed at in pixels of the picture: `point:X,Y`, `box:L,T,R,B`,
                `scribble:X,Y,X,Y,...` or `mask:FILE`. For families with visual prompts.
            threshold: least score of an object; None is 0.3 where only names are asked for and else 0, as
                `mmcore predict`.
            top: at most so many objects, the best.

        Raises:
            DataError: the picture cannot be read.
            UsageError: the family cannot answer this.
        """
        if names is not None and (prompt is not None or example is not None):
            what = f"names and {'an example' if prompt is None else 'prompt'} are two ways of asking"
            raise UsageError(what, where="predict()", do="give one of them; only prompt and example go together")
        if visual is not None and (prompt is not None or example is not None):
            what = "what is pointed at is all that is meant"
            raise UsageError(what, where="predict()", do="give visual without prompt and example")
        alone = prompt is None and example is None and visual is None
        least = (0.3 if alone else 0.0) if threshold is None else threshold
        listed = None if names is None else tuple(names)
        said = str(example) if isinstance(example, str | Path) else "a picture"
        shown = None if example is None else Example(said, picture=_pixels(example))
        pointed = None if visual is None else read_visual(visual)
        asked = Question(names=listed, prompt=prompt, example=shown, visual=pointed, threshold=least, top=top)
        asked = with_class_names(asked, self.opened.settings.stage)
        pixels = _pixels(image)
        return Answer(predict_image(self.model, pixels, asked, self.device), asked, pixels)

    def chat(self, image: "Picture", text: str) -> str:
        """The model's answer in words to one question about a picture; see `conversation` for more than one.

        Raises:
            UsageError: the family gives no words.
        """
        said = self.predict(image, prompt=text).prediction.text
        if said is None:
            plugin = self.opened.settings.plugin
            raise UsageError(f"{plugin} answers without words", where="chat()", do="use predict()")
        return said

    def conversation(self, image: "Picture | None" = None, *, example: "Picture | None" = None) -> Conversation:
        """Questions and answers about one picture, each knowing those before; None talks without a picture.

        Args:
            image: what is spoken of.
            example: something in it, shown instead of named; for families with visual prompts.

        Raises:
            DataError: a picture cannot be read.
            UsageError: the family gives no words, or cannot be shown an example.
        """
        pixels, shown = (None if one is None else _pixels(one) for one in (image, example))
        return Conversation(self.model, self.device, pixels, self.opened.settings.plugin, shown)

    def answer_of(self, prediction: "Prediction", question: str, image: "np.ndarray") -> "Answer":
        """One answer of a conversation as `predict` gives it, with its JSON and drawing."""
        return Answer(prediction, Question(prompt=question), image)


class Answer:
    """What a model said about one picture: values, JSON and a drawing.

    Args:
        prediction: everything it said.
        question: what was asked; says which objects are kept.
        pixels: the picture, (height, width, 3) uint8 RGB.
    """

    def __init__(self, prediction: "Prediction", question: Question, pixels: "np.ndarray") -> None:
        self.prediction, self.question, self._pixels = prediction, question, pixels

    def __repr__(self) -> str:
        found = self.json()
        said = [f"{one.get('name', 'object')} {one.get('score', 1):.2f}" for one in found["objects"][:6]]
        return f"<Answer {found.get('text') or ', '.join(said) or 'nothing found'}>"

    def json(self) -> dict[str, Any]:
        """What `mmcore predict` writes: kept objects best first, boxes in pixels, masks as COCO run lengths, text."""
        return to_json(self.prediction, self.question)

    def draw(self) -> "Image.Image":
        """The picture with what was found, or with the answer beside it."""
        from PIL import Image

        return draw(Image.fromarray(self._pixels), self.prediction, self.question)


def _pixels(image: "Picture") -> "np.ndarray":
    import numpy as np
    from PIL import Image

    from mmcore.data.images import MAX_PIXELS, read_image

    if isinstance(image, str | Path):
        if not Path(image).exists():
            raise missing_picture(Path(image))
        return read_image(Path(image), max_pixels=MAX_PIXELS)
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        what = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise UsageError(
            f"{what} is not a picture", where="image", known="a path, a PIL image, (height, width, 3) uint8 RGB"
        )
    return image
