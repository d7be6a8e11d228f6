package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"
)

// outcome is the result of one call.
type outcome int

const (
	answered outcome = iota
	refused          // the server is full; retry is the time to wait
	failed
)

// call is one attempt: the times of the first text and of the end for an answer, the time to wait for a
// refusal.
type call struct {
	outcome   outcome
	firstText time.Duration
	whole     time.Duration
	retry     time.Duration
	problem   string
}

// sender starts an answer and reads it to its end.
type sender interface {
	call(ctx context.Context, stream int) call
}

// result is printed as JSON. Times are milliseconds: p50, p90, p99.
type result struct {
	Answers  int            `json:"answers"`
	Refused  int            `json:"refused"`
	GivenUp  int            `json:"given_up"`
	Failed   map[string]int `json:"failed"`
	Seconds  float64        `json:"seconds"`
	Started  [3]float64     `json:"first_text_ms"`  // of accepted calls
	Waited   [3]float64     `json:"since_asked_ms"` // including earlier refused calls
	Answered [3]float64     `json:"whole_ms"`       // of accepted calls
	Refusals [3]float64     `json:"refusal_ms"`     // from the call to the refusal
}

// send starts all streams together. Each stream starts a new answer after the previous one until the
// time is over. After a refusal the stream waits as long as the server demands, retries, and gives up
// after a minute.
func send(arguments []string) {
	flags := flag.NewFlagSet("send", flag.ExitOnError)
	url := flags.String("url", "", "chat completions over HTTP, …/v1/chat/completions")
	target := flags.String("grpc", "", "host and port of thumbwheel.chat.v1.ChatService; -request is sent")
	request := flags.String("request", "", "a SendMessageRequest in base64")
	textField := flags.Int("text-field", 0, "number of the text field of ChatEvent")
	key := flags.String("key", "", "API key")
	model := flags.String("model", "thumbwheel", "model to ask for over HTTP")
	tokens := flags.Int("tokens", 80, "tokens of an answer, over HTTP")
	question := flags.String("question", "hw do i lern python its very hard", "text of the user, over HTTP")
	streams := flags.Int("streams", 10, "number of simultaneous answers")
	seconds := flags.Float64("seconds", 10, "time in which answers are started, in seconds")
	patience := flags.Duration("patience", time.Minute, "time after which a stream gives up")
	waits := flags.Bool("wait", true, "wait as long as a refusal demands")
	_ = flags.Parse(arguments)

	var sending sender
	if *target != "" {
		sending = newGRPC(*target, *request, *textField, *key, *streams)
	} else {
		sending = newHTTP(*url, *key, *model, *question, *tokens)
	}
	found := hold(sending, *streams, time.Duration(*seconds*float64(time.Second)), *patience, *waits)
	if err := json.NewEncoder(os.Stdout).Encode(found); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func hold(sending sender, streams int, duration, patience time.Duration, waits bool) result {
	var lock sync.Mutex
	var firstTexts, sinceAsked, wholes, refusals []time.Duration
	found := result{Failed: map[string]int{}}
	began := time.Now()
	var group sync.WaitGroup
	for stream := range streams {
		group.Go(func() {
			for time.Since(began) < duration {
				asked := time.Now()
				for {
					ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
					tried := time.Now()
					one := sending.call(ctx, stream)
					cancel()
					lock.Lock()
					switch one.outcome {
					case answered:
						found.Answers++
						firstTexts = append(firstTexts, one.firstText)
						sinceAsked = append(sinceAsked, tried.Sub(asked)+one.firstText)
						wholes = append(wholes, one.whole)
					case refused:
						found.Refused++
						refusals = append(refusals, time.Since(tried))
					case failed:
						found.Failed[one.problem]++
					}
					lock.Unlock()
					if one.outcome != refused {
						break
					}
					if time.Since(asked)+one.retry > patience {
						lock.Lock()
						found.GivenUp++
						lock.Unlock()
						break
					}
					if waits {
						time.Sleep(one.retry)
					}
					if time.Since(began) > duration+patience || (!waits && time.Since(began) > duration) {
						break
					}
				}
			}
		})
	}
	group.Wait()
	found.Seconds = time.Since(began).Seconds()
	found.Started, found.Waited = quantiles(firstTexts), quantiles(sinceAsked)
	found.Answered, found.Refusals = quantiles(wholes), quantiles(refusals)
	return found
}

func quantiles(times []time.Duration) (found [3]float64) {
	if len(times) == 0 {
		return
	}
	slices.Sort(times)
	for place, share := range []float64{0.5, 0.9, 0.99} {
		at := min(len(times)-1, int(share*float64(len(times))))
		found[place] = float64(times[at].Microseconds()) / 1000
	}
	return
}
