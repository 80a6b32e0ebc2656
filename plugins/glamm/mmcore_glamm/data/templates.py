"""What is asked and answered where annotations hold no conversation: our wording, published placeholders and counts.

`data.templates` replaces any bank by a file (`mmcore.language.templates`), for those who want the published prompts.
"""

from pathlib import Path

from mmcore.contract.protocols import DataContext
from mmcore.contract.recipe import Stage
from mmcore.data.images import locate
from mmcore.language.conversation import MARKER
from mmcore.language.templates import Bank, replace_banks

OVERVIEW = f"The {MARKER} provides an overview of the picture.\n"
"""What the first question of nearly every conversation begins with, as published: weights were trained on it."""

Banks = dict[str, tuple[str, ...]]


def _pairs(*wordings: str) -> tuple[str, ...]:
    """Each wording with and without its final stop or question mark, as the published bank has them."""
    return tuple(text for wording in wordings for text in (wording, wording[:-1]))


_CAPTION = (
    "Describe what this image shows, with all its details.",
    "What can be seen in this picture? Please go into detail.",
    "Give a complete description of the image.",
    "Give a complete description of the image",
    "Tell me everything that this photo contains.",
    "Tell me everything that this photo contains",
    "How would you explain this picture to somebody who cannot see it?",
    "Would you describe the scene in this photo at length?",
    "Please look closely at this image and report what is there.",
    "What does the whole picture look like, in detail?",
    "Please write down a full account of this image.",
    "Please write down a full account of this image",
    "Go through the contents of this photo one by one.",
    "Can you tell me at length what this photo is about?",
    "I would like an extensive description of this picture.",
    "I would like an extensive description of this picture",
    "Can you break down this photo for me?",
)
_REGION = (
    "Please describe <region> of the picture in detail.",
    "What is there to see in <region>?",
    "Tell me about the part of the image marked by <region>.",
    "How would you describe what <region> shows?",
    "Could you say in detail what lies inside <region>?",
    "What does the area <region> of this photo contain?",
    "Give a full description of <region>, please.",
    "I marked <region>. What is it?",
    "Look at <region> and explain what it shows.",
    "What do you notice in <region> of the picture?",
    "Please give me the details of <region>.",
    "Can you tell me what <region> of the image is?",
    "What is the content of the marked place <region>?",
    "Report everything about <region> in this photo.",
    "Which details does <region> have?",
    "Could you describe the place called <region> for me?",
    "Say what can be found in <region>, please.",
    "Write a detailed description of the area <region>.",
    "In this picture, what is at <region>?",
    "What would you say about <region> of this image?",
)
_REGION_GROUP = (
    "Please describe the regions <region> of the picture in detail.",
    "What is there to see in the areas <region>?",
    "Tell me about the parts of the image marked by <region>.",
    "How would you describe what the regions <region> show together?",
    "Could you say in detail what lies inside the boxes <region>?",
    "What do the areas <region> of this photo contain?",
    "Give a full description of the places <region>, please.",
    "I marked <region>. What are they?",
    "Look at the regions <region> and explain what they show.",
    "What do you notice in <region> of the picture?",
    "Please give me the details of the marked areas <region>.",
    "Can you tell me what the regions <region> of the image are?",
    "What is the content of the marked places <region>?",
    "Report everything about the areas <region> in this photo.",
    "Which details do the regions <region> have?",
    "Could you describe the places called <region> for me?",
    "Say what can be found in all of <region>, please.",
    "Write a detailed description of the areas <region>.",
    "In this picture, what is at the places <region>?",
    "What would you say about the regions <region> of this image?",
    "How do the marked parts <region> look?",
    "Go through the regions <region> and describe them.",
    "I would like to know what the boxes <region> hold.",
    "Explain the parts <region> of this photo to me.",
    "What happens in the areas <region>?",
    "Please sum up what the regions <region> show.",
    "Which things are inside the places <region>?",
    "What do I see when I look at <region>?",
    "Describe <region> together, as one scene.",
    "Give me all there is to know about the regions <region>.",
)
_GCG = (
    "Describe the image in detail, and mark each thing you mention with its segmentation mask.",
    "What does this picture show? Give the masks of the phrases along with the text.",
    "Please explain what the photo contains; put segmentation masks behind the parts of the answer they belong to.",
    "Tell me about the scene, with interleaved masks for the phrases of your answer.",
    "Give a complete description of this image, each phrase followed by its segmentation mask.",
    "I would like a detailed account of this photo in which the objects are segmented as they are named.",
)
_SEG = _pairs(
    "Please segment the {class_name} in this image.",
    "Mark the {class_name} in the picture for me.",
    "Find the {class_name} here and give its mask.",
    "Show which pixels belong to the {class_name}.",
    "Where is the {class_name} in this photo? Please give a mask.",
    "What is the {class_name} in this picture? Answer with a mask.",
    "Can you segment the {class_name} in this photo?",
    "Which part of the image is the {class_name}?",
)
_ANSWER = (
    "This is it: [SEG].",
    "Sure, [SEG].",
    "Certainly, it is [SEG].",
    "Here is the mask you asked for: [SEG].",
    "[SEG].",
)
_INTRO = (
    f"{MARKER}\nOne region of the image is marked, and one object is in it; the image may show others. Say where the "
    "object is in relation to the others and within the image, and name its main attributes.",
)

BANKS = {
    "caption": Bank(_CAPTION),
    "region": Bank(_REGION, ("<region>",)),
    "region_group": Bank(_REGION_GROUP, ("<region>",)),
    "gcg": Bank(_GCG),
    "segment": Bank(_SEG, ("{class_name}",)),
    "answer": Bank(_ANSWER, ("[SEG]",)),
    "region_intro": Bank(_INTRO, (MARKER,)),
}
"""The published banks have 17, 20, 30, 6, 16 and 5 wordings, and one introduction to a region."""


def banks(stage: Stage, context: DataContext) -> Banks:
    """The wordings of a run, those of `data.templates` included.

    Raises:
        RecipeError: the file names another bank, or a wording has other placeholders.
    """
    found = BANKS
    if stage.data.templates is not None:
        found = replace_banks(BANKS, _file(stage.data.templates, context.root))
    return {name: bank.wordings for name, bank in found.items()}


def _file(name: str, root: Path) -> Path:
    return locate(root, name, "data.templates")
