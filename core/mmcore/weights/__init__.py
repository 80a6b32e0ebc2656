"""Published parameter names, and files that hold them."""
