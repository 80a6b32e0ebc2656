"""Golden answers: greedy decoding with and without a region, and where the published code stops."""

import numpy as np
import torch
from mmcore.language.generate import Stop, generate
from mmcore.language.tokens import load_tokenizer, tokenize
from mmcore.parity import Case, Check, Report, deterministic_image
from PIL import Image

from mmcore_griffon.parity.common import config_of, encoded_rows, limits_of, make_batch, model_of, picture


def check_generate(case: Case, report: Report) -> None:
    """The continuation of one prompt, its probabilities, and the first steps' logits."""
    config, given = config_of(case), case.tensors
    model = model_of(config)
    limits = {"absolute": 1e-3} if "1e-3" in case.data["tolerances"] else limits_of(case)
    report.covers("images", "regions")
    _check_pictures(case, report)
    batch = make_batch(
        case.name, config, encoded_rows(given["input_ids"], None, None), given["images"], given.get("regions")
    )
    with torch.no_grad():
        embeds = model.language.embed(batch.sequences, model.spliced(batch))
    found = generate(model.language, embeds, batch.sequences, max_new_tokens=case.data["new_tokens"], keep_logits=True)
    stored = given["sequences_without_cache"]
    report.equal("sequences_without_cache", found.ids, stored)
    if case.data.get("cached_equals_uncached", True):
        report.equal("sequences", found.ids, given["sequences"])
    else:
        report.covers("sequences")  # the published cache drops keys behind the window; noted in the case
    report.close("max_prob", found.probabilities[0], given["max_prob"], **limits)
    assert found.logits is not None
    first = given["first_logits"]
    report.close("first_logits", found.logits[0, : len(first)], first, absolute=1e-3)
    gaps = found.logits[0].topk(2).values
    if (gap := case.data.get("smallest_top2_gap")) is not None:
        report.close("smallest_top2_gap", (gaps[:, 0] - gaps[:, 1]).min(), gap, absolute=1e-3)


def _check_pictures(case: Case, report: Report) -> None:
    """The stored inputs from the case's picture and crop."""
    config, data = config_of(case), case.data
    image = picture(data["image_source"], config.pixels(config.image_size))
    report.close("images", image[None], case.tensors["images"], absolute=1e-5)
    if (box := data.get("region_crop")) is not None:
        rgb = np.asarray(Image.fromarray(deterministic_image(*data["image_source"])).crop(box))
        crop = config.pixels(config.region_size)(rgb)
        report.close("regions", crop[None], case.tensors["regions"], absolute=1e-5)


def check_stopping(case: Case, report: Report) -> None:
    """Ids that end with the keyword's, or a text that holds it in the window that the published rule looks at."""
    for number, one in enumerate(case.data["cases"]):
        tokenizer = load_tokenizer(case.folder.parent / f"conv_{one['tokenizer']}" / "tokenizer", pad="unknown")
        keyword, ids = one["keyword"], one["ids"]
        report.equal(f"ids {number}", tokenize(one["text"], tokenizer, None), ids)
        ends = tokenize(keyword, tokenizer, None).tolist()
        ends = ends[1:] if len(ends) > 1 and ends[0] == tokenizer.bos_token_id else ends
        report.equal(f"keyword_ids {number}", [ends], one["keyword_ids"])
        # Published: counted from the prompt's length although the ids are new ones only.
        offset = min(len(ids) - one["prompt_length"], len(ends))
        window = tokenizer.decode(ids[-offset:], skip_special_tokens=True)
        stop = Stop(sequences=(tuple(ends),)).reached(ids) or keyword in window
        report.equal(f"stop {number}", stop, one["stop"])


KINDS: dict[str, Check] = {"generate_": check_generate, "stopping": check_stopping}
