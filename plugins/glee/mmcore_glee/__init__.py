"""GLEE (Wu et al., CVPR 2024): one detector, segmenter and grounder whose classifier is a text encoder."""
