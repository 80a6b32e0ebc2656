"""GLaMM: pictures and words in, answers out."""

from typing import ClassVar

from mmcore.language.llava.model import LlavaModel

from mmcore_glamm.tokenizer import write_tiny


class Glamm(LlavaModel):
    """A language model that sees."""

    TOKENIZERS: ClassVar = {"tiny": write_tiny}
