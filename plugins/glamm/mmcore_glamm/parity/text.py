"""Prompts, boxes and answers of the released inference scripts, the model being replaced by a fixed answer."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from mmcore.contract.values import MAIN, SEGMENT
from mmcore.geometry.square import frame
from mmcore.language.slow_text import decode_slowly
from mmcore.language.tokens import encoder_of
from mmcore.parity import Case, Check, Report, deterministic_image
from mmcore.vision.sam.pixels import normalised

from mmcore_glamm.answers import MAX_NEW_TOKENS, read_answer
from mmcore_glamm.config import B7
from mmcore_glamm.questions import Asking
from mmcore_glamm.tokens import ADDED, BOX, open_tokenizer


def text(case: Case, report: Report) -> None:
    """Each run: the prompt's ids, the pictures, the box as the script rounds it, and what is read of the answer."""
    stored = case.data
    image = deterministic_image(*(stored["image"][key] for key in ("seed", "height", "width")))
    with TemporaryDirectory() as scratch:
        given = case.folder.parent / stored["tokenizer"]
        given = given if given.exists() else case.folder / Path(stored["tokenizer"]).name
        (path := Path(scratch) / "tokenizer.model").write_bytes(given.read_bytes())
        config = B7.replace(tokenizer=str(path), add_tokens=True)
        processor = config.processor(open_tokenizer(config))
        for number, run in enumerate(stored["runs"]):
            tag, boxed = f"{number}.{run['kind']}", run["boxes"] is not None
            asked = stored["instruction"][run["kind"]]
            # Only the captions' script cleans its instruction of what could be HTML.
            asked = asked if boxed else _cleaned(asked)
            boxes = [stored["box_xyxy"]] if boxed else []
            made = Asking(processor, config.sam.image_size).sample(image, asked, boxes)
            report.equal(f"{tag}.prompt_ids", made.encoded.ids, run["prompt_ids"])
            report.equal(f"{tag}.original", [list(made.original_size)], run["original"])
            resized = frame(made.original_size, config.sam.image_size).resized
            report.equal(f"{tag}.resize", [list(resized)], run["resize"])
            report.equal(f"{tag}.max_new_tokens", MAX_NEW_TOKENS, run["max_new_tokens"])
            limit = stored["tolerances"]["means"]
            dtype = getattr(torch, run["image_dtype"].removeprefix("torch."))
            clip = made.images[MAIN][0].to(dtype).float().mean()
            report.close(f"{tag}.clip_mean", clip, run["clip_mean"], absolute=limit)
            sam = normalised(made.images[SEGMENT][0][None])[0].to(dtype).float().mean()
            report.close(f"{tag}.sam_mean", sam, run["sam_mean"], absolute=limit)
            if boxed:
                height, width = made.original_size
                corners = torch.tensor(stored["box_xyxy"], dtype=torch.float64) / torch.tensor([width, height] * 2)
                rounded = corners.half().to(getattr(torch, run["boxes_dtype"].removeprefix("torch.")))
                report.equal(f"{tag}.boxes", [rounded.float().tolist()], run["boxes"])
                report.equal(f"{tag}.<bbox> of the prompt", asked.count(BOX), len(made.prompts))
            ids = encoder_of(processor.tokenizer).ids(run["answer_text"], None)[1:]
            said = read_answer(decode_slowly(processor.tokenizer, ids, ADDED))
            report.equal(f"{tag}.caption", said.text, run["caption"])
            if run["phrases"] is not None:
                report.equal(f"{tag}.phrases", said.phrases, run["phrases"])


def _cleaned(text: str) -> str:
    """What `bleach.clean` and the putting back of < and > leave of an instruction: a lone & becomes an entity."""
    return re.sub(r"&(?!\w+;|#\d+;)", "&amp;", text)


KINDS: dict[str, Check] = {"text_": text}
