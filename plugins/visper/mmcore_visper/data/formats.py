"""VisPer-LM's own annotation formats: captions as the probing reads them, and the question files of its benchmarks."""

from mmcore.data.formats.captions import CaptionParser
from mmcore.data.formats.format import Format

from mmcore_visper.evaluate import BENCHMARKS

PROBING = "COCO captions, probing"
PROBE_REQUEST = "Describe the image in two lines."
"""Of the published probing: part of what the probed hidden states depend on; the marker stands behind it."""

_PROBING = Format(
    name=PROBING,
    title="COCO captions of which each image counts once and nothing is answered",
    content="conversations",
    tasks=("probe",),
    parser=lambda files, options: CaptionParser(
        files[0], requests=(PROBE_REQUEST,), answer="n", one_per_image=True, marker_last=True
    ),
)

FORMATS = (
    _PROBING,
    *(
        Format(
            name=name,
            title=f"question file of {name}, asked and scored as published",
            content="questions",
            tasks=("ask",),
        )
        for name in BENCHMARKS
        if name != "questions"
    ),
)
