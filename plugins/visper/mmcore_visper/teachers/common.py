"""What the published teachers share: what they are called, and what to do without their files."""

from dataclasses import dataclass
from typing import ClassVar

from mmcore.vision.extractors import PublishedExtractor


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedTeacher(PublishedExtractor):
    """A teacher whose weights lie in files."""

    WHAT: ClassVar[str] = "teacher"
    DO: ClassVar[str] = (
        "put them into the folder `weights` of the data root, name them with --set model.teachers.TASK=PATH, or train "
        "from targets that were cached elsewhere"
    )
