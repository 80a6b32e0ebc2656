"""The boxes of an answer by the published rule, as evaluations take them."""

from mmcore_griffon.answers import Extracted, extract, says_nothing


def boxes_of(text: str) -> list[Extracted]:
    """The boxes of an answer; none where the published reader stops at a piece of it."""
    try:
        return extract(text)
    except ValueError:
        return []


def read_boxes(text: str) -> list[tuple[float, ...]] | None:
    """Fractions of the picture; none where the answer says so, None where nothing can be read."""
    found = [one.box[:4] for one in boxes_of(text)]
    return found if found or says_nothing(text) else None
