"""The annotation formats that Griffon reads beside the core's, and how records of each task are asked."""

from collections.abc import Mapping

from mmcore.data.formats import box_lines
from mmcore.data.formats.box_lines import Kind
from mmcore.evaluate.short_answers import FORMATS as QUESTIONS

FORMATS = (*QUESTIONS, *box_lines.FORMATS)
ASKED: Mapping[str, tuple[Kind, ...]] = {
    "detect": ("DET", "VG"),
    "refer": ("REC",),
    "ground": ("VG",),
    "region_caption": ("REG",),
}
"""Task of a format of the core -> how its records are asked in training; one is drawn."""
