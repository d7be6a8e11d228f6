"""`make deploy`: the chart on the cluster of this machine, from images to an open door."""
