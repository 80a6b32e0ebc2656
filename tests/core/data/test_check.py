"""Sources looked through by worker processes, which end with the look whatever happens."""

import multiprocessing

import pytest
from mmcore.data.check import check_samples
from mmcore.errors import DataError


class Source:
    """Every third record is wrong; annotations that cannot be asked are a plugin's mistake."""

    def __init__(self, broken: bool) -> None:
        self.broken = broken

    def __len__(self) -> int:
        return 100

    def annotations(self):
        return self if self.broken else None

    def unusable(self, position: int) -> bool:
        raise IndexError(f"no record {position}")

    def sample(self, draw):
        if draw.position % 3 == 0:
            raise DataError("wrong", where=f"record {draw.position}")


@pytest.mark.parametrize("workers", [0, 2])
def test_every_wrong_sample_is_told(workers: int) -> None:
    found = list(check_samples("one", Source(broken=False), workers=workers))  # type: ignore[arg-type]
    assert [one.where for one in found] == [f"record {number}" for number in range(0, 100, 3)]
    assert not multiprocessing.active_children()


def test_no_worker_outlives_an_error_on_its_way() -> None:
    """They heed no signal, so the interpreter would wait for them for ever when it ends."""
    with pytest.raises(IndexError, match="no record") as caught:
        list(check_samples("one", Source(broken=True), workers=2))  # type: ignore[arg-type]
    assert not multiprocessing.active_children()
    assert caught.traceback  # held, and with it every frame between here and there
