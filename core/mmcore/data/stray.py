"""Names of pictures that point out of their folder although the pictures lie in it, as labelling tools write them.

    /home/me/photos/a.jpg                        absolute, with photos as the folder that is given
    ..\\..\\label-studio\\media\\upload\\4\\a.jpg    Label Studio's COCO export: from the export to its server's store

An absolute name is only taken where the file is in the folder, links followed. Of Label Studio's the way out is
dropped: its pictures have names of their own, and lie in `images` of the export or were copied with `upload`.
"""

import os
import re

_UPLOAD = re.compile(r"(?:\.\./)+(?:(?!\.\./).)*?(upload/(?:[^/]+/)*([^/]+))")


def is_absolute(name: str) -> bool:
    """Whether a name is an absolute path of this kind of system that does not climb."""
    return name.startswith("/") and not name.startswith("//") and ".." not in name.split("/")


def uploaded(name: str) -> tuple[str, ...]:
    """Where below a folder a picture may lie that Label Studio names in its own store; empty for other names.

    >>> uploaded("../../media/upload/4/a.jpg")
    ('upload/4/a.jpg', 'images/a.jpg', 'a.jpg')
    """
    found = _UPLOAD.fullmatch(name.replace("\\", "/"))
    if found is None or ".." in found[1].split("/"):
        return ()
    return found[1], f"images/{found[2]}", found[2]


def inside(root: str | os.PathLike[str], name: str) -> str | None:
    """The same picture named from its folder; None where it does not lie there, or the name is a plain one."""
    if is_absolute(name):
        base, target = os.path.realpath(root), os.path.realpath(name)
        return os.path.relpath(target, base) if target.startswith(base.rstrip(os.sep) + os.sep) else None
    return next((one for one in uploaded(name) if os.path.isfile(os.path.join(root, one))), None)
