module thumbwheel/cluster/probe

go 1.24.0
