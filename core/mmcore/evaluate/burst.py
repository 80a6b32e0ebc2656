"""Tracking of masks of BURST's 482 categories (Athar et al. 2023), by HOTA and track AP (TrackEval).

Figures are means over categories that anything true is of: all, the 78 that COCO has too ("common"), and the others.
What annotations cannot judge is dropped (`mmcore.evaluate.toolkit.unannotated`); so are the categories that BURST calls
distractors. Beside `predictions.json` in YouTube-VIS's form, `burst.json` is the file that the benchmark's own tool
(Ali2500/BURST-benchmark) takes.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from mmcore.base.files import replace_text
from mmcore.data.videos import VideoRecord
from mmcore.errors import DataError
from mmcore.evaluate.ground_truth import Item
from mmcore.evaluate.tao import annotated, track_ap
from mmcore.evaluate.toolkit import Judged, Toolkit, mean, require_toolkit
from mmcore.evaluate.tracks import TracksEvaluator, by_video


def names_of(*lines: str) -> frozenset[str]:
    """Names of categories, which have no blanks."""
    return frozenset(" ".join(lines).split())


COMMON = names_of(
    "airplane apple stop_sign hair_dryer surfboard backpack handbag suitcase ball banana baseball_bat baseball_glove",
    "horse teddy_bear television_set tennis_racket bear bed cow bench toaster toilet bicycle toothbrush bird",
    "traffic_light kite train_(railroad_vehicle) knife boat truck book laptop_computer umbrella bottle vase bowl",
    "broccoli bus_(vehicle) cake microwave_oven wineglass motorcycle mouse_(computer_equipment) zebra car_(automobile)",
    "necktie carrot cat orange_(fruit) cellular_telephone chair parking_meter clock baby computer_keyboard pizza",
    "flowerpot cup dining_table dog remote_control doughnut sandwich scissors refrigerator elephant sheep fireplug",
    "sink skateboard ski fork frisbee snowboard sofa giraffe spoon",
)
"""Names of TAO's categories that stand for COCO's, by the benchmark's tool."""
DISTRACTORS = names_of(
    "armchair basketball black_sheep cab_(taxi) calf canoe railcar_(part_of_a_train) chicken_(animal)",
    "convertible_(automobile) drone duck eagle garbage_truck glass_(drink_container) goat goose grocery_bag helicopter",
    "heron polar_bear magazine mattress minivan motor_scooter mug notebook notepad penguin pickup_truck pigeon",
    "pitcher_(vessel_for_liquid) plate pot racket rag_doll plastic_bag shoulder_bag sieve toy dirt_bike trailer_truck",
    "volleyball water_bottle wooden_spoon",
) | {"monitor_(computer_equipment) computer_monitor"}
SPLITS = ("", "-common", "-uncommon")


class BurstEvaluator(TracksEvaluator):
    """HOTA and track AP over the videos that were taken in; see `YoutubeVisEvaluator`.

    Raises:
        PluginError: TrackEval is not installed.
        DataError: there are no masks.
    """

    without = DISTRACTORS
    most = 300

    def __init__(self, *args: Any, **settings: Any) -> None:
        require_toolkit("validation by BURST's protocol")
        super().__init__(*args, **settings)
        if "segm" not in self.iou_types:
            raise DataError("BURST judges masks, and the videos have none", where=self.annotations)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """HOTA, its two halves and track AP, of all, common and uncommon categories; AP50 and more of all."""
        split = (f"{name}{split}" for split in SPLITS for name in ("HOTA", "DetA", "AssA", "AP"))
        return (*split, "AP50", "AP75", "AR")

    def summarise(self, items: Sequence[Item]) -> dict[str, float]:
        """Metrics over every video among the items."""
        videos = list(self.videos(items))
        toolkit = Toolkit(["HOTA", "TrackMAP"], annotated(videos), federated=True)
        for video in videos:
            toolkit.add(video, [frame for frame in video.frames if len(frame.true)])
        names, hota, tracks = self.names(), toolkit.judged("HOTA"), toolkit.judged("TrackMAP")
        self.category_ap = {"HOTA": {names[one.category]: float(one.figures["HOTA"].mean()) for one in hota}}
        found: dict[str, float | None] = {}
        for split, wanted in zip(SPLITS, (None, True, False), strict=True):
            for figure in ("HOTA", "DetA", "AssA"):
                found[f"{figure}{split}"] = mean(_chosen(hota, names, wanted), figure)
            found[f"AP{split}"] = mean(_chosen(tracks, names, wanted), "AP_all")
        return {**{name: value for name, value in found.items() if value is not None}, **track_ap(toolkit)}

    def write(self, items: Sequence[Item], folder: Path) -> None:
        """`burst.json`: masks of each sequence by frame and track."""
        records: dict[Any, VideoRecord] = {record.id: record for record in self.records.whole()}
        first = 1
        sequences: list[dict[str, Any]] = []
        for id_, frames in by_video(items, records, str(self.annotations)).items():
            sequences.append(self._sequence(records[id_], frames, first))
            first += len(sequences[-1]["track_category_ids"])
        replace_text(folder / "burst.json", json.dumps({"sequences": sequences}) + "\n")

    def _sequence(self, record: VideoRecord, frames: Mapping[int, Item], first: int) -> dict[str, Any]:
        """One video; its tracks are numbered from `first`, since the tool wants no number twice."""
        numbers: dict[int, str] = {}
        categories: dict[str, int] = {}
        segmentations: list[dict[str, Any]] = [{} for _ in record.frames]
        for frame, item in sorted(frames.items()):
            for row, category in self.shown(item):
                number = numbers.setdefault(item["track_ids"][row], str(first + len(numbers)))
                categories.setdefault(number, category)
                segmentations[frame][number] = {"rle": item["masks"][row]["counts"], "score": item["scores"][row]}
        place = PurePosixPath(record.frames[0]).parent
        return {
            "id": record.id,
            "dataset": place.parent.name,
            "seq_name": place.name,
            "width": record.width,
            "height": record.height,
            "annotated_image_paths": [PurePosixPath(frame).name for frame in record.frames],
            "track_category_ids": categories,
            "segmentations": segmentations,
        }


def _chosen(judged: Sequence[Judged], names: Mapping[int, str], common: bool | None) -> list[Judged]:
    """Those of all categories (None), the common ones (True) or the others."""
    return [one for one in judged if common is None or (names[one.category] in COMMON) == common]
