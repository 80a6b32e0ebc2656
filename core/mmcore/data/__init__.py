"""Data: parsers and their indexes, the training order, loading, transforms, the sample scenes of --demo."""
