"""tokenmill: visual corpora into versioned token stores, and stores into training."""
