"""How tokenizers learn: fitting jobs, networks by gradient and, in `codebooks`, by clustering."""
