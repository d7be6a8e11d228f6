// Load for benchmarks/sweep.py: a model server that answers at once, and a client that holds many streams open.
//
// `load serve` and `load send`; `-h` after either lists the flags. Both are written in Go so that they take few of the
// processor seconds that the services under test need.
package main

import (
	"fmt"
	"os"
)

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "serve":
			serve(os.Args[2:])
			return
		case "send":
			send(os.Args[2:])
			return
		}
	}
	fmt.Fprintln(os.Stderr, "usage: load serve|send [flags]")
	os.Exit(2)
}
