"""Labelled data: what there is, what it holds, how it is split, and examples to train on."""
