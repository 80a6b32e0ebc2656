"""What lies where in one tar file, found by reading its headers alone; nothing is unpacked.

`tarfile` knows every dialect of headers, but takes a damaged header for the end of the archive, keeps all members in
memory and says nothing of a second archive behind the first. So members are dropped once they are seen, and an archive
counts as whole only where its end mark is, with nothing but zeros behind it.
"""

import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from mmcore.errors import DataError, MissingDataError, UnsafeDataError

BLOCK = 512
"""Bytes; headers and contents begin at a multiple of it."""

_COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ\x00": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
    b"\x04\x22\x4d\x18": ("lz4", "unlz4"),
}
"""First bytes -> what compressed the file, and the command that undoes it."""


class Member(NamedTuple):
    """A file inside a tar."""

    name: str
    """Without a leading "./"."""
    offset: int
    """Of its first byte in the tar."""
    size: int
    """Bytes; -1 for what is no plain file (a symbolic link, a device, a sparse file) and so has no bytes of its own."""


def members(path: Path) -> Iterator[Member]:
    """Every file of a tar; hard links come last, with the place of the file that each is a link to.

    Raises:
        MissingDataError: there is no such file.
        UnsafeDataError: it is a pipe or a device.
        DataError: it is compressed, no tar, damaged or cut short, or a member is encrypted; names the file.
    """
    with _opened(path) as file:
        _refuse_compressed(file, path)
        try:
            links: list[tuple[str, str]] = []
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for header in _walk(archive):
                    if header.islnk():
                        links.append((plain(header.name), plain(header.linkname)))
                    else:
                        yield _member(header)
                end = archive.offset
            if links:
                file.seek(0)
                with tarfile.open(fileobj=file, mode="r:") as archive:
                    yield from _followed(archive, links)
        except tarfile.TarError as error:
            raise _damaged(path, str(error)) from None
        except (OSError, ValueError, OverflowError) as error:
            raise _damaged(path, f"{error}") from error
        _refuse_unfinished(file, end, path)


def plain(name: str) -> str:
    """A member's name as records write it."""
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name


def _walk(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The header of everything that is no folder."""
    while (header := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined] - they are kept for `getmembers`, a kilobyte each
        if not header.isdir():
            yield header


def _member(header: tarfile.TarInfo) -> Member:
    usable = header.isreg() and header.sparse is None  # type: ignore[attr-defined]
    return Member(plain(header.name), header.offset_data, header.size if usable else -1)


def _followed(archive: tarfile.TarFile, links: Sequence[tuple[str, str]]) -> Iterator[Member]:
    """Hard links, each with the place of what it is a link to."""
    wanted = {target for _, target in links}
    found = {name: member for header in _walk(archive) if (name := (member := _member(header)).name) in wanted}
    for name, target in links:
        place = found.get(target, Member(target, 0, -1))
        yield Member(name, place.offset, place.size)


def _opened(path: Path) -> BinaryIO:
    try:
        if not path.is_file() and path.exists():
            raise UnsafeDataError("not a regular file", where=path, do="name the tar file itself")
        file = open(path, "rb", buffering=BLOCK * 8)  # noqa: SIM115 - the caller closes it
    except FileNotFoundError:
        raise MissingDataError("there is no such tar file", where=path, do="check the path") from None
    except OSError as error:
        raise DataError(f"the tar cannot be opened: {error.strerror}", where=path) from None
    if hasattr(os, "posix_fadvise"):  # only headers are read, so reading ahead fetches pictures for nothing
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
    return file


def _refuse_compressed(file: BinaryIO, path: Path) -> None:
    start = file.read(BLOCK)
    file.seek(0)
    for magic, (kind, undo) in _COMPRESSED.items():
        if start.startswith(magic):
            raise DataError(
                f"the tar is compressed with {kind}, so no picture can be read from the middle of it",
                where=path,
                do=f"decompress it once (`{undo} {path.name}`); pictures are compressed already and stay as small",
            )
    if not start:
        raise DataError("the tar is empty", where=path, do="fetch it again")


def _refuse_unfinished(file: BinaryIO, end: int, path: Path) -> None:
    """What `tarfile` takes for the end of an archive without a word.

    Args:
        file: the tar.
        end: where the walk came to its end.
        path: of the tar, for errors.

    Raises:
        DataError: there is no end mark at that place, or something behind it.
    """
    file.seek(end)
    tail = file.read(2 * BLOCK)
    if len(tail) < BLOCK:
        raise _damaged(path, "it ends without the mark of an end: it was cut off, or is still being written")
    if any(tail[:BLOCK]):
        raise _damaged(path, f"the header at byte {end:,} is damaged")
    while tail:
        if any(tail):
            raise DataError(
                f"something follows the end of the archive at byte {end:,}",
                where=path,
                do="if archives were put behind one another, keep them as files of their own; else fetch it again",
            )
        tail = file.read(1 << 20)


def _damaged(path: Path, problem: str) -> DataError:
    return DataError(f"the tar is damaged: {problem}", where=path, do="fetch it again, or move it elsewhere")
