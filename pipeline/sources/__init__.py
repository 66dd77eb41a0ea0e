"""The layouts that images come in, one a file; `pipeline.source` is the door to them."""
