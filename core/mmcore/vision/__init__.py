"""What image encoders of several families share."""
