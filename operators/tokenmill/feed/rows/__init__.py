"""Which samples there are: the rows that a snapshot shows, by filters, tombstones and groups."""
