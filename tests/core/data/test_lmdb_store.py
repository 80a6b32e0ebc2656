"""An LMDB is read by key in any process, and one that is missing or damaged is told instead of ending the process."""

import io
import pickle
from pathlib import Path

import pytest
from mmcore.data.images import read_image
from mmcore.data.lmdb_store import Store
from mmcore.data.pictures import picture_at
from mmcore.errors import DataError, MissingDataError
from PIL import Image

lmdb = pytest.importorskip("lmdb", reason="the extra lmdb is not installed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with lmdb.open(str(tmp_path / "store"), map_size=1 << 24) as store, store.begin(write=True) as transaction:
        for number in range(2000):
            transaction.put(f"sa_{number}.jpg".encode(), b"x" * 100 + str(number).encode())
    return tmp_path / "store"


def test_values_are_read_by_key_also_behind_a_pickle(folder: Path) -> None:
    store = Store(folder)
    assert store.get("sa_7.jpg").endswith(b"x7")
    assert len(store) == 2000
    assert pickle.loads(pickle.dumps(store)).get("sa_19.jpg").endswith(b"x19")
    assert sorted(store.keys())[0] == "sa_0.jpg"


def test_a_missing_store_and_a_missing_key_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="no LMDB"):
        Store(tmp_path / "nowhere")
    with pytest.raises(MissingDataError, match="no key 'sa_x'"):
        Store(folder).get("sa_x")


@pytest.mark.parametrize("kept", [0, 100, 5000, 200_000])
def test_a_file_that_was_cut_is_an_error_and_not_the_end(folder: Path, kept: int) -> None:
    content = (folder / "data.mdb").read_bytes()
    assert len(content) > kept
    (folder / "data.mdb").write_bytes(content[:kept])
    with pytest.raises(DataError, match="cannot be read"):
        Store(folder).get("sa_7.jpg")


def test_another_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"no database" * 1000)
    with pytest.raises(DataError, match="cannot be read"):
        len(Store(tmp_path))


def test_pictures_may_lie_in_a_store(tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.new("RGB", (30, 20), (200, 40, 10)).save(content, "PNG")
    with lmdb.open(str(tmp_path / "store"), map_size=1 << 24) as store, store.begin(write=True) as transaction:
        transaction.put(b"sub/a.png", content.getvalue())
        transaction.put(b"b.png", content.getvalue()[:40])
    assert read_image(picture_at(tmp_path / "store", "sub/a.png"))[0, 0].tolist() == [200, 40, 10]
    with pytest.raises(DataError, match="key b"):
        read_image(picture_at(tmp_path / "store", "b.png"))
    with pytest.raises(MissingDataError, match="no key"):
        picture_at(tmp_path / "store", "c.png")
    assert picture_at(tmp_path, "a.png") == tmp_path / "a.png"
