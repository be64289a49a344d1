"""Fitting the codebooks of the tiny quantizers, one module each, run by hand."""
