module thumbwheel/cluster/pause

go 1.24.0
