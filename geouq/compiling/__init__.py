"""Compiling: a network into what is computed once a window and what once a sample."""
