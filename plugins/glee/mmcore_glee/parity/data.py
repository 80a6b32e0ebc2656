"""Golden cases of the data: words, sampling rule, and samples of both pipelines from the case's own small data sets.

Drawn steps are stored with the case and replayed, so pixels must be equal; that we could have drawn them is checked
beside it, and inference draws nothing, so there our own steps must be the stored ones.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmcore import masks
from mmcore.data.order import Order, group_by_aspect, record_weights, repeat_factors
from mmcore.data.transforms import Crop, Flip, Pad, Resize, Step, Transform
from mmcore.parity import Case, Check, Report

from mmcore_glee import vocabulary
from mmcore_glee.tokenizer import token_ids


def check_vocabularies(case: Case, report: Report) -> None:
    """Names of every task, cleaning of expressions, token ids."""
    given = case.data
    for task, names in given["names"].items():
        report.equal(f"names.{task}", vocabulary.names(task), names)
    for tasks, other in given["same_list_as"].items():
        expected = other if isinstance(other, list) else given["names"][other]
        for task in tasks.split(", "):
            report.equal(f"same_list_as.{task}", vocabulary.names(task), expected)
    for expression, cleaned in given["expression_cleaning"]:
        report.equal(f"expression_cleaning.{expression}", vocabulary.clean_expression(expression), cleaned)
    for text, ids in given["tokens"]:
        report.equal(f"tokens.{text[:40]}", token_ids(_spelled_out(text)), ids)
    if "visual_genome_phrases" in given:
        own = vocabulary.phrases()
        count = given["visual_genome_phrases"]["count"]
        print(
            f"  note visual_genome_phrases: the {count} published phrases are not distributed and not compared; random"
            f" negatives come from {len(own)} own names, or from the file in options.negatives"
        )


def _spelled_out(text: str) -> str:
    """The text that a case abbreviates as `aaaaa...(400 characters a)`."""
    found = re.fullmatch(r".*\((\d+) characters (.)\)", text)
    return found.group(2) * int(found.group(1)) if found else text


def check_sampler(case: Case, report: Report) -> None:
    """Weights of the records, batches of a stream, and that the training order draws with the same weights."""
    given = case.data
    sizes, ratios = given["sizes"], given["ratio"]
    ends = np.cumsum(sizes)
    categories = [given["categories"][end - size : end] for size, end in zip(sizes, ends, strict=True)]
    for threshold, expected in given["weights_by_repeat_threshold"].items():
        factors = [
            repeat_factors(records, float(threshold)) if wanted else None
            for records, wanted in zip(categories, given["use_rfs"], strict=True)
        ]
        weights = record_weights(sizes, ratios, factors)
        report.close(f"weights_by_repeat_threshold.{threshold}", weights, expected, absolute=1e-6)
    stream = ((one["dataset_source"], one["width"] > one["height"], one["id"]) for one in given["stream"])
    report.equal("batches", list(group_by_aspect(stream, given["batch_sizes"])), given["batches"])
    _check_order(given, report)


def _check_order(given: Mapping[str, Any], report: Report) -> None:
    """The order draws each data set as often as the stored weights (without repeat factors) say: within 5 sigma."""
    plain = np.asarray(record_weights(given["sizes"], given["ratio"]))
    ends = np.cumsum(given["sizes"])
    totals = np.array([plain[end - size : end].sum() for size, end in zip(given["sizes"], ends, strict=True)])
    names = [str(i) for i in range(len(totals))]
    order = Order(
        dict(zip(names, given["sizes"], strict=True)),
        dict(zip(names, given["ratio"], strict=True)),
        dict(zip(names, given["batch_sizes"], strict=True)),
        seed=1,
    )
    drawn = [draw.source for m in range(4000) for draw in order.draws(m)]
    counts = np.array([drawn.count(name) for name in names])
    share = totals / totals.sum()
    # Samples come in batches of one source, so a count varies with the batch size.
    sigma = np.sqrt(share * (1 - share) * max(given["batch_sizes"]) / len(drawn))
    report.close("order draws by these weights", counts / len(drawn), share, absolute=float(5 * sigma.max()))


KINDS: dict[str, Check] = {
    "vocabularies": check_vocabularies,
    "sampler": check_sampler,
}
