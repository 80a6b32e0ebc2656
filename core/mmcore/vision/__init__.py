"""What image encoders of several families share: CLIP towers, projectors to a language model, prepared pictures."""
