"""Processes: the actor pool, over Ray or in one process."""
