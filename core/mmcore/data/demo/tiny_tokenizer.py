"""Tokenizers for tiny variants: a byte-level BPE of about a thousand tokens, with special tokens of Llama 3 or others.

Made on the spot from a short list of words, so that no file has to be fetched; any text can be written in it, words of
a family's sample data in one token each. It is saved as transformers saves tokenizers and read like any other.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcore.data.demo.write import Writer, write_once

SIZE = 1000
NUM_RESERVED = 32
"""Reserved tokens, for what an exported folder puts in place of an image."""


@dataclass(frozen=True, slots=True)
class Specials:
    """Tokens that are no text, in the order of their ids; the first three are what a tiny configuration has to say."""

    pad: str
    bos: str
    """Begins every text that is tokenised, unless `begins` says otherwise."""
    eos: str
    others: tuple[str, ...] = ()
    begins: bool = True

    @property
    def all(self) -> tuple[str, ...]:
        """By id."""
        return (self.pad, self.bos, self.eos, *self.others)


LLAMA3 = Specials(
    "<pad>",
    "<|begin_of_text|>",
    "<|eot_id|>",
    (
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|end_of_text|>",
        *(f"<|reserved_special_token_{number}|>" for number in range(NUM_RESERVED)),
    ),
)
SPECIAL = LLAMA3.all
LLAMA2 = Specials("<unk>", "<s>", "</s>")
GEMMA = Specials("<pad>", "<bos>", "<eos>", ("<start_of_turn>", "<end_of_turn>"))
QWEN2 = Specials("<|endoftext|>", "<|im_start|>", "<|im_end|>", begins=False)

_WORDS = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s*\n+|\s+(?!\S)|\s+"
"""Words with the blank before them, digits, punctuation, line ends; empty lines stay whole as in Llama 3."""

_COMMON = """
a an the of in on at to with and is are by for from up down near next front behind under over out into while that
his her its their some two three several many group man woman men women people person boy girl child children player
young old small large little big tall long red green blue white black brown yellow orange dark bright wooden
sitting standing walking riding holding playing eating looking wearing lying flying parked driving running swinging
dog cat horse bird cow sheep bear elephant giraffe zebra bus car truck train bike bicycle motorcycle boat plane
street road city building house room kitchen bathroom table chair bed desk couch field grass park beach water snow
sky tree window door wall floor sign light clock phone laptop computer tv book bag umbrella ball bat tennis baseball
skateboard surfboard wave ski board game plate food pizza cake bread fruit banana apple bowl cup glass bottle knife
toilet sink mirror top side other inside outside together during day air background picture photo view area
"""
"""Words of everyday captions, so that photographs' captions do not become letters."""


def write_tokenizer(cache: Path, name: str, frequent: str, version: int, special: Specials = LLAMA3) -> Path:
    """A tokenizer's folder below `cache`, made when it is not there or damaged.

    Args:
        cache: of mmcore.
        name: of the folder.
        frequent: see `make_tokenizer`.
        version: grows when the words change: ids of older runs would mean something else.
        special: see `make_tokenizer`.
    """
    wanted = {"version": version}
    return write_once(Path(cache) / "tokenizers" / name, wanted, lambda folder: _write(folder, frequent, special))


def _write(folder: Path, frequent: str, special: Specials) -> dict[str, str]:
    make_tokenizer(frequent, special).save_pretrained(folder)
    out = Writer(folder)
    for path in sorted(folder.iterdir()):
        out.put(path.name, path.read_bytes())
    return out.files


def make_tokenizer(frequent: str = "", special: Specials = LLAMA3) -> Any:
    """The tokenizer itself, the same at every call.

    Args:
        frequent: what a family's sample data and templates say; these words get tokens of their own first.
        special: those of the conversation template.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=list(special.all),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Words stand at the beginning of a text or behind a space, headers end with an empty line; each form is learned.
    words = [form for word in frequent.split() for form in (word, f" {word}")]
    common = [f" {word}" for word in _COMMON.split()]
    tokenizer.train_from_iterator([*["\n\n", *words] * 20, *common * 2], trainer)
    begin = {"bos_token": special.bos} if special.begins else {}
    if begin:
        bos = (special.bos, special.all.index(special.bos))
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{special.bos} $A", special_tokens=[bos])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **begin,
        eos_token=special.eos,
        pad_token=special.pad,
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )
