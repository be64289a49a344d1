"""Networks of the tokenizers, written from the papers, with the official state-dict keys."""
