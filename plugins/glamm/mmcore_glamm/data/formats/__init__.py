"""The annotation formats of GLaMM's published data sets that the core does not have, one kind a file.

Each gives records with parts (`mmcore.data.grounded`) or objects of the core; the hook returns `registry.FORMATS`.
"""
