"""What LLaVA and its descendants share beyond a language model: published names, and folders for plain transformers.

names      published parameter names of tower, projector and language model <-> ours; which file is which
placement  vocabulary rows that stand for an image and for constant vectors after it
layout     tensors and configuration of transformers' `LlavaForConditionalGeneration`
folder     the whole folder: weights, configurations, tokenizer, chat template
"""
