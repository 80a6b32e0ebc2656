"""What is asked and answered where annotations hold no conversation: our wording, published placeholders and counts.

    caption        none             17    a picture is described
    region         <region>         20    a box is described; region_intro is the introduction of RefCOCO and RefCOCO+
    region_group   <region>         30    several boxes are
    gcg            none              6    a picture is described, with masks of what is named
    segment        {class_name}     16    a class or an expression is segmented
    answer         [SEG]             5    what is said to that

They stand in `wordings.json`; `data.templates` replaces any bank by a file (`mmcore.language.templates`), for those who
want the published prompts.
"""

from collections.abc import Mapping
from importlib.resources import files

from mmcore.language.conversation import MARKER
from mmcore.language.templates import read_banks

PLACEHOLDERS: Mapping[str, tuple[str, ...]] = {
    "caption": (),
    "region": ("<region>",),
    "region_group": ("<region>",),
    "gcg": (),
    "segment": ("{class_name}",),
    "answer": ("[SEG]",),
    "region_intro": (MARKER,),
}
BANKS = read_banks(files("mmcore_glamm.data").joinpath("wordings.json").read_text(encoding="utf-8"), PLACEHOLDERS)

Banks = dict[str, tuple[str, ...]]
