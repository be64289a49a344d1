"""What an actor does with a unit: fetch, decode, view, batch, encode, write."""
