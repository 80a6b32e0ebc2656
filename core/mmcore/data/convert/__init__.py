"""Annotations of published data sets in the forms that are read here: one conversion a file, `mmcore data convert`."""
