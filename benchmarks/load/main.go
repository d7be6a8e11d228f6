// Load generator for benchmarks/sweep.py: an instant model server, and a client with many streams.
//
// The commands are `load serve` and `load send`; `-h` lists their flags. Both are written in Go to
// leave the processor time to the services under test.
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
