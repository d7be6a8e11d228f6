"""`make deploy`: build the images, install the chart and open a port to the cluster."""
