"""What the classes of annotations are to be called: renamed, merged, narrowed to some, by a list or a map.

classes: [forklift, person]                       # these two, in this order; objects of others are left out
classes: {lift truck: forklift, Forklift: forklift, pallet: null}    # two become one, one is left out, others stay
classes: {car: vehicle, bus: vehicle, "*": null}  # these two as one, and nothing else
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator

REST = "*"
"""Stands for every class that is not named."""
LEFT_OUT = ""
"""What a class is called whose objects are left out."""


def as_map(given: Any) -> Any:
    """A list as a map: these, and no others; null as what leaves out. Anything else is left to be refused."""
    if isinstance(given, list | tuple) and all(isinstance(name, str) for name in given):
        return {**{name: name for name in given}, REST: LEFT_OUT} if given else {}
    if isinstance(given, Mapping):
        return {str(name): LEFT_OUT if called is None else called for name, called in given.items()}
    return given


Classes = Annotated[dict[str, str], BeforeValidator(as_map)]
"""Name in the annotations -> what it is called; "" leaves its objects out, `*` stands for all others."""
