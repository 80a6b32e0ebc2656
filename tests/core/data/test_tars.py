"""Pictures in tars are read where they are: by any of their names, in any process, and never from another tar."""

import gzip
import io
import multiprocessing
import os
import pickle
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from mmcore.data import spread as spread_module
from mmcore.data import tar_shards
from mmcore.data.cache.choice import key_of
from mmcore.data.cache.features import digest_of
from mmcore.data.images import read_image, safe_join
from mmcore.data.pictures import bytes_at, open_images, picture_at, place_at
from mmcore.data.tar_members import members
from mmcore.data.tar_shards import Shards
from mmcore.errors import DataError, MissingDataError, PluginError, UnsafeDataError
from PIL import Image


def write_tar(path: Path, files: Mapping[str, bytes], *, form: int = tarfile.GNU_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return path


def png(red: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (6, 4), (red, 2, 3)).save(content, "PNG")
    return content.getvalue()


def opened(root: Path, relative: str, cache: Path | None = None) -> Shards:
    images = open_images(root, relative, "source 'x'", cache or root / "cache")
    assert isinstance(images, Shards)
    return images


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two shards as SA-1B has them: members begin with "./", and the JSON file is beside its image."""
    for number in (0, 1):
        inside = {f"./sa_{number}{i}.png": png(10 * number + i) for i in range(3)}
        beside = {f"./sa_{number}{i}.json": b'{"of": %d}' % (10 * number + i) for i in range(3)}
        write_tar(tmp_path / "data" / "images" / f"sa_00000{number}.tar", inside | beside)
    return tmp_path / "data"


@pytest.mark.parametrize("relative", ["images", "images/*.tar", "images/sa_{000000..000001}.tar", "**/sa_*.tar"])
def test_a_folder_and_a_pattern_of_tars_stand_in_the_place_of_a_folder(root: Path, relative: str) -> None:
    images = opened(root, relative)
    assert len(images) == 12
    below = "images/" if relative.startswith("*") else ""
    for name in (
        "sa_12.png",
        "./sa_12.png",
        str(root / "images" / "sa_000001" / "sa_12.png"),
        f"{below}sa_000001/sa_12.png",
    ):
        assert read_image(picture_at(images, name))[0, 0].tolist() == [12, 2, 3]
    assert bytes_at(images, f"{below}sa_000000/sa_02.json")[0] == b'{"of": 2}'


def test_a_record_may_leave_out_the_folder_that_all_members_lie_in(tmp_path: Path) -> None:
    write_tar(tmp_path / "train2017.tar", {"train2017/1.png": png(1), "train2017/2.png": png(2)})
    images = opened(tmp_path, "train2017.tar")
    for name in ("1.png", "train2017/1.png", "train2017/train2017/1.png"):
        assert picture_at(images, name).content == png(1)  # type: ignore[union-attr]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_kind_of_header_long_names_and_other_alphabets_are_read(tmp_path: Path, form: int) -> None:
    long = "/".join(["ein-ziemlich-langer-ordner"] * (5 if form == tarfile.USTAR_FORMAT else 12)) + "/bild.png"
    files = {long: png(7), "фото/один.png": png(8), "empty.txt": b""}
    images = opened(tmp_path, write_tar(tmp_path / "a.tar", files, form=form).name)
    for name, content in files.items():
        assert images.held(name).content == content


def test_what_the_index_says_is_where_the_bytes_are(tmp_path: Path) -> None:
    """Against another reader, over enough members for many buckets, some of them in both shards under other names."""
    files = {f"{n % 7}/{n:05d}.bin": bytes([n % 251]) * (n % 1500) for n in range(3000)}
    names = list(files)
    for number in (0, 1):
        write_tar(tmp_path / f"{number}.tar", {name: files[name] for name in names[number::2]})
    images = opened(tmp_path, "{0..1}.tar")
    assert len(images.index) > 30
    with tarfile.open(tmp_path / "0.tar") as archive:
        for name in names[::2]:
            member = archive.getmember(name)
            assert images.find(name) == (0, member.offset_data, member.size)
    assert all(images.held(name).content == files[name] for name in names)


def test_listing_by_several_processes_gives_the_same(tmp_path: Path, monkeypatch) -> None:
    for number in range(3):
        write_tar(tmp_path / f"{number}.tar", {f"{number}-{n}": bytes([n]) for n in range(200)})
    one = opened(tmp_path, "*.tar", tmp_path / "cache1")
    used = []
    monkeypatch.setattr(tar_shards, "PARALLEL_FROM", 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    pool = spread_module.ProcessPoolExecutor
    monkeypatch.setattr(spread_module, "ProcessPoolExecutor", lambda *a, **k: used.append(a) or pool(*a, **k))
    several = opened(tmp_path, "*.tar", tmp_path / "cache2")
    assert used
    for file in ("records.bin", "offsets.bin"):
        assert (one.index.folder / file).read_bytes() == (several.index.folder / file).read_bytes()


def _read(images: Shards, names: list[str], results) -> None:
    results.put([images.held(name).content for name in names])


def test_many_processes_read_at_once(root: Path) -> None:
    images = opened(root, "images")
    assert images.held("sa_00.png").content == png(0)  # the index is open when the process forks
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    names = [f"sa_{number}{i}.png" for number in (0, 1) for i in range(3)]
    workers = [context.Process(target=_read, args=(images, names, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for _ in workers:
        assert results.get(timeout=60) == [png(10 * number + i) for number in (0, 1) for i in range(3)]
    for worker in workers:
        worker.join()


def test_the_index_is_made_once_and_anew_when_a_shard_is_another(root: Path) -> None:
    images = opened(root, "images")
    kept = pickle.loads(pickle.dumps(images))
    assert opened(root, "images").index.folder == images.index.folder
    write_tar(root / "images" / "sa_000001.tar", {"sa_99.png": png(99), "sa_10.png": png(200)})
    with pytest.raises(DataError, match="replaced or written to") as caught:
        kept.held("sa_10.png")
    assert "sa_000001.tar" in str(caught.value)
    assert kept.held("sa_00.png").content == png(0)
    again = opened(root, "images")
    assert again.held("sa_10.png").content == png(200)
    assert not again.has("sa_12.png")
    (root / "images" / "sa_000001.tar").unlink()
    with pytest.raises(MissingDataError, match="gone"):
        again.held("sa_10.png")


def test_a_touched_shard_is_the_same_within_a_run_as_long_as_its_bytes_are_as_old(root: Path) -> None:
    images = opened(root, "images")
    (root / "images" / "sa_000000.tar").chmod(0o444)
    assert images.held("sa_00.png").content == png(0)


def test_what_is_not_there_is_named_with_advice(root: Path) -> None:
    images = opened(root, "images")
    with pytest.raises(MissingDataError, match=r"no member 'sa_13\.png'"):
        picture_at(images, "sa_13.png")
    with pytest.raises(MissingDataError, match=r"did you mean.*sa_000001"):
        picture_at(images, "sa_000002/sa_12.png")
    for name in ("../sa_12.png", "/sa_12.png", "file://sa_12.png"):
        with pytest.raises(UnsafeDataError):
            picture_at(images, name)
    with pytest.raises(MissingDataError, match=r"sa_000002\.tar"):
        opened(root, "images/sa_{000000..000002}.tar")
    with pytest.raises(MissingDataError, match="no such file is there"):
        opened(root, "images/x*.tar")
    with pytest.raises(UnsafeDataError, match="climbs out"):
        opened(root, "../*.tar")
    (root / "images" / "notes.txt").write_text("")
    with pytest.raises(DataError, match="this is none"):
        opened(root, "images/*")


def test_a_name_in_two_shards_is_refused_until_its_shard_is_named(tmp_path: Path) -> None:
    for number in (0, 1):
        write_tar(tmp_path / f"{number}.tar", {"000.png": png(number)})
    images = opened(tmp_path, "*.tar")
    with pytest.raises(DataError, match="2 shards have a member") as caught:
        images.held("000.png")
    assert "0/000.png" in str(caught.value)
    assert images.held("1/000.png").content == png(1)


def test_of_one_name_in_one_tar_the_last_counts_and_links_lead_to_their_file(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for content in (b"old", b"new!"):
            header = tarfile.TarInfo("a")
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
        for name, kind in (("hard", tarfile.LNKTYPE), ("soft", tarfile.SYMTYPE)):
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, "a"
            archive.addfile(header)
    images = opened(tmp_path, "a.tar")
    assert images.held("a").content == b"new!"
    assert images.held("hard").content == b"new!"
    with pytest.raises(DataError, match="link"):
        images.held("soft")


@pytest.mark.parametrize(
    ("name", "magic"),
    [("a.tar.gz", b"\x1f\x8b"), ("a.tar", b"BZh9"), ("a.tar.xz", b"\xfd7zXZ\x00"), ("a.tar.zst", b"\x28\xb5\x2f\xfd")],
)
def test_a_compressed_tar_is_refused_with_what_to_do(tmp_path: Path, name: str, magic: bytes) -> None:
    whole = write_tar(tmp_path / "whole", {"a.png": png(1)}).read_bytes()
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / name).write_bytes(gzip.compress(whole) if magic == b"\x1f\x8b" else magic + whole[len(magic) :])
    for relative in ("images", f"images/{name}", "images/a*"):
        with pytest.raises(DataError, match="compressed with") as caught:
            opened(tmp_path, relative)
        assert "un" in str(caught.value.do)


def damaged(content: bytes) -> dict[str, bytes]:
    """A tar of two members of two blocks each, damaged in several ways."""
    second = 3 * 512
    return {
        "cut within a member": content[: second + 700],
        "cut within a header": content[: second + 100],
        "cut behind a member": content[: 2 * second],
        "a damaged header": content[:second] + b"x" * 512 + content[second + 512 :],
        "another archive behind it": content + content,
        "empty": b"",
        "no tar": b"no tar at all " * 100,
    }


@pytest.mark.parametrize("how", list(damaged(b"\0" * 4096)))
def test_a_damaged_tar_is_an_error_that_names_it(tmp_path: Path, how: str) -> None:
    path = write_tar(tmp_path / "a.tar", {"a": b"1" * 600, "b": b"2" * 600})
    assert [member.name for member in members(path)] == ["a", "b"]
    path.write_bytes(damaged(path.read_bytes())[how])
    with pytest.raises(DataError) as caught:
        opened(tmp_path, "a.tar")
    assert "a.tar" in str(caught.value.where)
    assert caught.value.do


def test_a_tar_that_shrinks_under_its_index_is_told(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"a": b"1" * 6000})
    images = opened(tmp_path, "a.tar")
    status = path.stat()
    with open(path, "r+b") as file:
        file.truncate(1000)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(DataError, match="replaced or written to"):
        images.held("a")


def test_a_folder_with_pictures_or_folders_stays_a_folder(tmp_path: Path) -> None:
    write_tar(tmp_path / "a" / "x.tar", {"a.png": png(1)})
    (tmp_path / "a" / "b.png").write_bytes(png(2))
    assert open_images(tmp_path, "a", "source 'x'", tmp_path / "cache") == tmp_path / "a"
    (tmp_path / "a" / "b.png").unlink()
    (tmp_path / "a" / "sub").mkdir()
    assert open_images(tmp_path, "a", "source 'x'", tmp_path / "cache") == tmp_path / "a"


def test_reading_takes_microseconds_not_milliseconds(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {f"{n}.bin": b"x" for n in range(2000)})
    images = opened(tmp_path, "a.tar")
    began = time.process_time()
    for n in range(2000):
        images.held(f"{n}.bin")
    assert (time.process_time() - began) / 2000 < 1e-3


def test_caches_of_features_know_a_member_as_the_file_that_it_would_be(root: Path, tmp_path: Path) -> None:
    images = opened(root, "images")
    place = pickle.loads(pickle.dumps(place_at(images, "sa_000000/sa_01.png")))
    (tmp_path / "sa_01.png").write_bytes(png(1))
    assert digest_of(place) == digest_of(tmp_path / "sa_01.png") != digest_of(place_at(images, "sa_02.png"))
    assert key_of(place, root) == key_of(root / "images/sa_000000/sa_01.png", root)
    with pytest.raises(MissingDataError):
        digest_of(place_at(images, "sa_77.png"))


def test_a_plugin_that_knows_folders_alone_is_told_how_to_read_them(root: Path) -> None:
    with pytest.raises(PluginError, match="pictures of folders alone"):
        safe_join(opened(root, "images"), "sa_00.png")  # type: ignore[arg-type]
