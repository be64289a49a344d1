"""From a picture to the views that are tokenized; one module a kind."""
