"""Real pictures to try things on: the shipped sample corpus, and larger ones fetched by name."""
