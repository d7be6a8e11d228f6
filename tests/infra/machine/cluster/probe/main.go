// What the cluster's tests run in pods: a server whose readiness can be turned off, a client of it, a question to the DNS.
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"sort"
	"strings"
	"sync/atomic"
	"time"
)

const patience = 2 * time.Second

func main() {
	if len(os.Args) == 3 && os.Args[1] == "get" {
		get(os.Args[2])
	} else if len(os.Args) == 3 && os.Args[1] == "lookup" {
		lookup(os.Args[2])
	} else {
		serve()
	}
}

func serve() {
	var unready atomic.Bool
	host, err := os.Hostname()
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, "hello from %s", host) })
	http.HandleFunc("/off", func(http.ResponseWriter, *http.Request) { unready.Store(true) })
	http.HandleFunc("/on", func(http.ResponseWriter, *http.Request) { unready.Store(false) })
	http.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) {
		if unready.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	fmt.Println("serving")
	log.Fatal(http.ListenAndServe(":8080", nil))
}

func get(url string) {
	answer, err := (&http.Client{Timeout: patience}).Get(url)
	if err != nil {
		log.Fatal(err)
	}
	defer answer.Body.Close()
	if _, err := io.Copy(os.Stdout, answer.Body); err != nil {
		log.Fatal(err)
	}
}

func lookup(name string) {
	addresses, err := net.LookupHost(name)
	if err != nil {
		log.Fatal(err)
	}
	sort.Strings(addresses)
	fmt.Println(strings.Join(addresses, " "))
}
