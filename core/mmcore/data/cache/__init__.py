"""What frozen networks say of images, kept on disk."""
