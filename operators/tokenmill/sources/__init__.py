"""Where assets come from: folders, listings, tars; one module a kind."""
