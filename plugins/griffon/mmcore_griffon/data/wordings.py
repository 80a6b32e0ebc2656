"""What is asked: banks of questions in our own words, with the placeholders and the numbers of the published ones.

    detect     <image>, <category set>   60, of which 32 differ     published as nvn.json
    refer      <expr>                    60, of which 38 differ     1vn.json: expressions, and short lists of classes
    single     <image>, <expr>           54                         1v1.json: an expression that means one thing
    describe   <image>, <objs>           125                        REG.json
    similar    <image>, <region>         60, of which 59 differ     visual_search.json
    captions   none                      the core's requests to describe a picture

One that stands twice is drawn twice as often. `data.templates` names a file that replaces any bank.
"""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from mmcore.data.formats.captions import REQUESTS
from mmcore.language.templates import Bank, read_banks

PLACEHOLDERS: Mapping[str, tuple[str, ...]] = {
    "detect": ("<image>", "<category set>"),
    "refer": ("<expr>",),
    "single": ("<image>", "<expr>"),
    "describe": ("<image>", "<objs>"),
    "similar": ("<image>", "<region>"),
}

NAMED_FORMAT = "\nAnswer in the format: class name-[x1, y1, x2, y2], and concatenate them with &."
"""Behind every question of detection in training; the published weights know it by these words."""
BARE_FORMAT = "\nAnswer in the format: [x1, y1, x2, y2], and concatenate them with &."
"""Behind every question with a visual prompt."""


@cache
def banks() -> Mapping[str, Bank]:
    """The banks by name."""
    written = files("mmcore_griffon.data").joinpath("wordings.json").read_text(encoding="utf-8")
    return {**read_banks(written, PLACEHOLDERS), "captions": Bank(REQUESTS)}
