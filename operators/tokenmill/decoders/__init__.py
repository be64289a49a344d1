"""From bytes to pixels, within limits; one module a modality."""
