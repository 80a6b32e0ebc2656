"""Published parameter names, and files that hold them."""

from mmcore.weights.files import read_tensors, write_safetensors

__all__ = ["read_tensors", "write_safetensors"]
