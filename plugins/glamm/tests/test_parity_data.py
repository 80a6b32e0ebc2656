"""Files on disk become the samples and batches that the published loaders made of them; its figures are ours."""

from pathlib import Path

import pytest
from mmcore.parity import main
from mmcore_glamm.parity.data import KINDS as DATA
from mmcore_glamm.parity.metrics import KINDS as FIGURES

CASES = ("data_main_gcg", "data_main_semantic", "data_main_refer", "data_main_region", "data_main_caption")


@pytest.mark.parametrize("case", [*CASES, "sampling_main"])
def test_our_samples_are_those_of_the_published_code(case: str, shared: Path, capsys: pytest.CaptureFixture) -> None:
    if case == "data_main_region":
        pytest.importorskip("lmdb", reason="GranD's regions lie in an LMDB, which needs the extra lmdb")
    code = main("glamm", {**DATA, **FIGURES}, ["-q", str(shared / "goldens" / "glamm" / case)])
    assert code == 0, capsys.readouterr().out
