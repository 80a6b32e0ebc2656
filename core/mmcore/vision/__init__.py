"""What image encoders of several families share: CLIP towers, SAM, projectors to a language model, pixels."""
