"""What reading a store costs, computed from manifests and the schedule before anything is read.

`tokenmill.feed.estimate` puts it together.
"""
