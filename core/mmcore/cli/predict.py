"""`mmcore predict`: any images in, JSON and pictures out."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import click

from mmcore.cli.options import as_words, classes_option, read_classes


@click.command()
@click.argument("target", metavar="RUN|CHECKPOINT")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE...")
@click.option(
    "--names",
    type=as_words,
    metavar="A,B,...",
    help="What to look for. Default: the classes of own data that it was trained on, else the family's vocabulary.",
)
@classes_option
@click.option("--prompt", type=as_words, metavar="TEXT", help="An expression or a question, such as 'the red kite'.")
@click.option(
    "--example",
    metavar="FILE|L,T,R,B",
    help="What to look for, shown: an image of it, or a box in pixels of each image; with --prompt, what is asked "
    "about. For families with visual prompts.",
)
@click.option(
    "--visual",
    metavar="KIND:WHERE",
    help="What to find, pointed at, in pixels: point:X,Y, box:L,T,R,B, scribble:X,Y,X,Y,... or mask:FILE; of a video "
    "in its first frame. For families with visual prompts.",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    help="Least score of an object. Default: 0.3, with --prompt, --example or --visual 0.",
)
@click.option(
    "--no-masks", is_flag=True, help="Boxes alone: the masks of a model that learned from boxes mean nothing."
)
@click.option("--top", type=click.IntRange(min=1), metavar="N", help="At most so many objects an image, the best.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder. Default: RUN/predictions or ./predictions."
)
@click.option("--checkpoint", default="last", show_default=True, metavar="last|best|STEP", help="Of a run.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--video", is_flag=True, help="A folder holds the frames of one video; video files are known as such.")
@click.option("--every", type=click.IntRange(min=1), default=1, metavar="N", help="Of videos, take each N-th frame.")
@click.option("--frames", type=click.IntRange(min=1), default=300, show_default=True, help="At most so many a video.")
@click.option("--json", "as_json", is_flag=True, help="Print the answers as JSON.")
def predict(
    target: str,
    images: tuple[Path, ...],
    names: str | None,
    classes: str | None,
    prompt: str | None,
    example: str | None,
    visual: str | None,
    threshold: float | None,
    no_masks: bool,
    top: int | None,
    out: Path | None,
    checkpoint: str,
    device: Literal["auto", "cpu", "cuda"],
    video: bool,
    every: int,
    frames: int,
    as_json: bool,
) -> None:
    """Predict on images (files, or folders of images): a JSON and a drawn PNG each. Videos: a strip and an MP4.

    Files that exist are never replaced: a second answer is NAME-2.
    """
    import json

    from mmcore.data.video_files import is_video
    from mmcore.errors import DataError
    from mmcore.runs.build import choose_device
    from mmcore.runs.opened import open_model
    from mmcore.runs.predict import find_images, predict_file, with_class_names
    from mmcore.runs.predict_video import predict_video

    question = _question(names, prompt, example, visual, threshold, top)
    question = replace(question, classes=read_classes(classes), masks=not no_masks)
    films = [path for path in images if is_video(path) or (video and path.is_dir())]
    if films and example is not None:
        raise click.UsageError("--example is for images; a video is asked by --names or --prompt.")
    if films and classes is not None:
        raise click.UsageError("--classes is for images; the names of a video's answers are those asked for.")
    paths = find_images([path for path in images if path not in films])
    opened = open_model(target, checkpoint=checkpoint)
    question = with_class_names(question, opened.settings.stage)
    place = choose_device(opened.settings.replace(device=device))
    model = opened.model.to(place).eval()
    folder = out or (opened.run_dir / "predictions" if opened.run_dir else Path("predictions"))
    answers: list[dict[str, Any]] = []
    failures: list[DataError] = []
    for path in [*films, *paths]:
        try:
            if path in films:
                answer = predict_video(model, path, question, folder, device=place, every=every, most=frames)
            else:
                answer = predict_file(model, path, question, folder, device=place)
        except DataError as error:  # one damaged file among many: the rest is still wanted
            failures.append(error)
            continue
        answers.append(answer)
        if not as_json:
            click.echo(_line(answer))
    if as_json:
        click.echo(json.dumps(answers, indent=1))
    for error in failures:
        click.echo(f"{type(error).__name__}: {error}", err=True)
    if failures:
        total = len(films) + len(paths)
        raise DataError(f"{len(failures)} of {total} images could not be read", do="see the messages above")


def _question(
    names: str | None,
    prompt: str | None,
    example: str | None,
    visual: str | None,
    threshold: float | None,
    top: int | None,
) -> Any:
    from mmcore.runs.predict import Question, read_example
    from mmcore.runs.visual import read_visual

    if visual is not None and (prompt is not None or example is not None):
        raise click.UsageError("--visual says what is meant; give it without --prompt and --example.")
    if names is not None and (prompt is not None or example is not None):
        raise click.UsageError("Give --names, or --prompt and --example; one of --prompt and --example is enough.")
    listed = None
    if names is not None:
        listed = tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
        if not listed:
            raise click.UsageError("--names is empty.")
    if prompt is not None and not prompt.strip():
        raise click.UsageError("--prompt is empty.")
    if threshold is None:
        threshold = 0.3 if prompt is None and example is None and visual is None else 0.0
    shown = None if example is None else read_example(example)
    pointed = None if visual is None else read_visual(visual)
    return Question(names=listed, prompt=prompt, example=shown, visual=pointed, threshold=threshold, top=top)


def _line(answer: dict[str, Any]) -> str:
    """`photo.jpg: kite 0.91, clock 0.77 -> predictions/photo.png`; of a video its tracks."""
    if "video" in answer:
        told = [
            f"#{t['track_id']} {t.get('name', 'object')} {t['score']:.2f} ({t['frames']})" for t in answer["tracks"][:6]
        ]
        more = [f"{len(answer['tracks']) - 6} more"] if len(answer["tracks"]) > 6 else []
        said = ", ".join(told + more) or _nothing(answer["frames"][0])
        return f"{answer['video']}: {said} -> {answer.get('film', answer['picture'])}"
    objects = answer["objects"]
    parts = [f"{one.get('name', 'object')} {one.get('score', 1.0):.2f}" for one in objects[:6]]
    if len(objects) > 6:
        parts.append(f"{len(objects) - 6} more")
    said = ", ".join(parts) or answer.get("text") or _nothing(answer)
    return f"{answer['image']}: {said} -> {answer['picture']}"


def _nothing(answer: dict[str, Any]) -> str:
    """What is said where no object is kept: the threshold, and how far from it the best one is."""
    said = f"nothing scores {answer['threshold']:.2f} or more (--threshold)"
    return said + (f", the best is {answer['best_score']:.2f}" if "best_score" in answer else "")
