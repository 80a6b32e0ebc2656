"""SAM, the promptable segmenter (Kirillov et al. 2023), as a part that any family may use.

pixels     a picture's bytes in the corner of a square; normalised on the device
config     sizes; the defaults are ViT-H as published
encoder    square -> map: a vision transformer with windows and relative positions
decoder    map, prompts -> masks; prompts are embeddings, such as a language model's
model      the three parts together
names      names in published files, and ours
maps       the frozen encoder as an extractor, whose maps a cache may hold
"""
