"""How bytes are stored, how processes are run, and how both are watched."""
