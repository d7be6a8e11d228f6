package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net/http"
	"time"
)

// No digits: the output guard holds digits back until the text after them is known.
var words = []string{"practice ", "a ", "little ", "every ", "day ", "and ", "read ", "what ", "others ", "wrote "}

// serve answers chat completions with max_tokens tokens: the first immediately, the others at a fixed
// pace.
func serve(arguments []string) {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	address := flags.String("address", "127.0.0.1:0", "address to listen on")
	version := flags.String("version", "instant-1", "name of the model")
	pace := flags.Duration("pace", 50*time.Millisecond, "time between two tokens of an answer")
	_ = flags.Parse(arguments)

	mux := http.NewServeMux()
	mux.HandleFunc("POST /v2/repository/index", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `[{"name": %q, "state": "READY", "reason": ""}]`, *version)
	})
	mux.HandleFunc("GET /v1/models", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"object": "list", "data": [{"id": %q, "object": "model"}]}`, *version)
	})
	mux.HandleFunc("POST /v1/chat/completions", func(w http.ResponseWriter, r *http.Request) {
		complete(w, r, *version, *pace)
	})
	log.Fatal(http.ListenAndServe(*address, mux))
}

func complete(w http.ResponseWriter, r *http.Request, version string, pace time.Duration) {
	var asked struct {
		MaxTokens int `json:"max_tokens"`
	}
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil || asked.MaxTokens < 1 {
		http.Error(w, "max_tokens must be at least 1", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	out := http.NewResponseController(w)
	event := func(choices, usage string) bool {
		_, err := fmt.Fprintf(w, `data: {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": %q, "choices": [%s]%s}`+"\n\n",
			version, choices, usage)
		return err == nil && out.Flush() == nil
	}
	ticker := time.NewTicker(pace)
	defer ticker.Stop()
	for number := range asked.MaxTokens {
		if number > 0 {
			select {
			case <-ticker.C:
			case <-r.Context().Done():
				return
			}
		}
		choice := fmt.Sprintf(`{"index": 0, "delta": {"content": %q}, "finish_reason": null}`, words[number%len(words)])
		if !event(choice, "") {
			return
		}
	}
	event(`{"index": 0, "delta": {}, "finish_reason": "length"}`, "")
	event("", fmt.Sprintf(`, "usage": {"prompt_tokens": 30, "completion_tokens": %d, "total_tokens": %d}`,
		asked.MaxTokens, asked.MaxTokens+30))
	fmt.Fprint(w, "data: [DONE]\n\n")
}
