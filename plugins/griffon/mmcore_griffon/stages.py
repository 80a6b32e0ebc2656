"""The stages of each variant: the recipes with what each language model starts from, and what of them is assumed."""

from mmcore import Init, Stage

from mmcore_griffon import recipes, tiny

_LANGUAGE = {
    "g-gemma2-9b": "hf://google/gemma-2-9b-it",
    "g-gemma2-27b": "hf://google/gemma-2-27b-it",
    "g-llama2-7b": "hf://meta-llama/Llama-2-7b-hf",
    "v2-llama2-13b": "hf://meta-llama/Llama-2-13b-hf",
    "v1-llama2-13b": "hf://meta-llama/Llama-2-13b-chat-hf",
    "qwen25-7b": "hf://Qwen/Qwen2.5-7B-Instruct",
}
"""What the first stage of each variant starts from, beside the tower."""
_TUNED = {
    "g-gemma2-9b": "hf://JefferyZhan/Griffon-G-gemma2-9B",
    "g-gemma2-27b": "hf://JefferyZhan/Griffon-G-gemma2-27B",
    "v1-llama2-13b": (recipes.CLIP_224, "hf://JefferyZhan/Griffon"),
}
"""What a fine-tune starts from; of the others no weights are published, a run of one's own is needed. The tower was
frozen in Griffon v1; whether its files have it could not be seen, so it is filled first."""
_UNPUBLISHED = "assumed: no script was published for this language model; all numbers are those of Gemma 2's"
_V1 = "assumed: Griffon v1's code has no such script any more; its tower stays frozen as the paper says"


def stages(variant: str) -> tuple[Stage, ...]:
    """Every stage of one variant, in training order."""
    if variant.startswith("tiny"):
        return tiny.STAGES
    first = recipes.ALIGNMENT.replace(
        init=Init(published=(_LANGUAGE[variant], recipes.CLIP_336 if "v1" not in variant else recipes.CLIP_224))
    )
    tuned = recipes.FINETUNE.replace(init=Init(stage="instruct", published=_TUNED.get(variant)))
    if variant == "v1-llama2-13b":
        return tuple(_version_1(stage) for stage in (first, recipes.PRETRAIN, recipes.INSTRUCT, tuned))
    every = (first, recipes.PRETRAIN, recipes.INSTRUCT, recipes.VISUAL_REFERRING, tuned)
    if "gemma2" in variant:
        return every
    return tuple(stage.replace(notes=(_UNPUBLISHED, *stage.notes)) for stage in every)


def _version_1(stage: Stage) -> Stage:
    """Griffon v1: the tower is never trained, and there is no region tokenizer."""
    trained = tuple(part for part in stage.trainable if part != "tower")
    rates = stage.optim.replace(multipliers={})
    return stage.replace(trainable=trained, optim=rates, notes=(_V1, *stage.notes))
