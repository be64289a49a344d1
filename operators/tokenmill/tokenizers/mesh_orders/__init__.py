"""Orders in which a quantised mesh becomes a sequence, one module each, with its exact inverse.

They are pure functions on arrays; `tokenmill.tokenizers.mesh_sequence` is the tokenizer.
"""
