"""What families built on a language model share: conversations, tokens, spliced sequences, the text loss, generation.

A conversation becomes token ids with placeholders (`conversation`, `tokens`, `labels`), placeholders become rows of
image features in one padded or packed tensor (`sequence`, `splice`), a transformers model runs over it (`models`), and
the loss looks at supervised positions only (`cross_entropy`).
"""
