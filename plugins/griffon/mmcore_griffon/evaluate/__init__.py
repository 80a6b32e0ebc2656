"""What Griffon is measured by, all of it read out of text: detection, expressions, phrases, counts, descriptions.

Every evaluation tells its `parse_rate`: the share of answers from which boxes were read, or which say that there are
none. Boxes are read by the published rule (`mmcore_griffon.answers.extract`).
"""
