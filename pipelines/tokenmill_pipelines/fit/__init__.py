"""How the weights that tokenmill ships were made: scripts, on data that anybody can get."""
