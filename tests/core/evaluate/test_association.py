"""Identities through a video: known answers, and TrackEval's figure where it is installed."""

import numpy as np
import pytest
from mmcore.evaluate.association import Association


def track(*boxes: tuple[float, float, float, float] | None) -> list[tuple[float, float, float, float] | None]:
    return list(boxes)


A, B = (0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 10.0, 10.0)


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        pytest.param([track(A, A, A, A), track(B, B, B, B)], 1.0, id="kept"),
        pytest.param([track(A, A, B, B), track(B, B, A, A)], 1 / 3, id="exchanged half way"),
        pytest.param([track(A, A, None, None), track(None, None, A, A), track(B, B, B, B)], 0.75, id="lost once"),
        pytest.param([track(B, B, B, B)], 1.0, id="not found is another matter"),
        pytest.param([track((30.0, 30.0, 5.0, 5.0), None, None, None)], None, id="nothing met"),
        pytest.param([], None, id="nothing found"),
    ],
)
def test_identities_are_judged_apart_from_finding(found, wanted) -> None:
    result = Association()
    result.add([track(A, A, A, A), track(B, B, B, B)], found)
    assert result.mean == (None if wanted is None else pytest.approx(wanted))


def test_the_figure_is_that_of_trackeval() -> None:
    hota = pytest.importorskip("trackeval.metrics.hota", reason="pip install trackeval")
    draw = np.random.default_rng(0)
    result, theirs, count = Association(), 0.0, 0
    for _ in range(6):
        true = [[(x, y, 12.0, 12.0) for x, y in draw.uniform(0, 40, (7, 2))] for _ in range(4)]
        noisy = [[tuple(np.add(box, draw.normal(0, 3, 4))) for box in one] for one in true]
        for frame in range(7):  # identities are mixed up, and things missed
            order = draw.permutation(4) if draw.random() < 0.4 else np.arange(4)
            row = [noisy[place][frame] for place in order]
            for place in range(4):
                noisy[place][frame] = None if draw.random() < 0.2 else row[place]  # type: ignore[call-overload]
        result.add(true, noisy)
        from mmcore.evaluate.association import _overlap, _seen

        seen = [_seen(noisy, frame) for frame in range(7)]
        data = {
            "num_gt_ids": 4,
            "num_tracker_ids": 4,
            "num_gt_dets": 28,
            "num_tracker_dets": int(sum(len(rows) for rows in seen)),
            "gt_ids": [np.arange(4)] * 7,
            "tracker_ids": seen,
            "similarity_scores": [
                _overlap([one[f] for one in true], [noisy[i][f] for i in seen[f]]) if len(seen[f]) else np.zeros((4, 0))
                for f in range(7)
            ],
        }
        judged = hota.HOTA().eval_sequence(data)
        half = 9  # thresholds are 0.05, 0.10, ...
        theirs += float(judged["AssA"][half] * judged["HOTA_TP"][half])
        count += int(judged["HOTA_TP"][half])
    assert result.pairs == count
    assert result.mean == pytest.approx(theirs / count)
