"""What things are: assets, token specs, columns, plans, snapshots, jobs and errors."""
