package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

type httpSender struct {
	client   http.Client
	url, key string
	body     []byte
}

func newHTTP(url, key, model, question string, tokens int) *httpSender {
	body, _ := json.Marshal(map[string]any{
		"model": model, "stream": true, "max_tokens": tokens,
		"messages": []map[string]string{{"role": "user", "content": question}},
	})
	transport := &http.Transport{MaxIdleConnsPerHost: 10_000}
	return &httpSender{client: http.Client{Transport: transport}, url: url, key: key, body: body}
}

func (s *httpSender) call(ctx context.Context, _ int) call {
	began := time.Now()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(s.body))
	if err != nil {
		return call{outcome: failed, problem: err.Error()}
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+s.key)
	response, err := s.client.Do(request)
	if err != nil {
		return call{outcome: failed, problem: "connection"}
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
		return readEvents(response.Body, began)
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		_, _ = io.Copy(io.Discard, response.Body)
		seconds, _ := strconv.Atoi(response.Header.Get("Retry-After"))
		return call{outcome: refused, retry: time.Duration(seconds) * time.Second}
	default:
		_, _ = io.Copy(io.Discard, response.Body)
		return call{outcome: failed, problem: fmt.Sprint(response.StatusCode)}
	}
}

// readEvents reads an answer, complete at [DONE]; an event with "error" makes the call fail.
func readEvents(body io.Reader, began time.Time) call {
	found := call{outcome: failed, problem: "broken off"}
	lines := bufio.NewScanner(body)
	for lines.Scan() {
		line := lines.Bytes()
		switch {
		case bytes.Equal(line, []byte("data: [DONE]")):
			if found.firstText > 0 {
				found.outcome, found.whole = answered, time.Since(began)
			}
			return found
		case bytes.HasPrefix(line, []byte(`data: {"error"`)):
			found.problem = "error event"
			return found
		case found.firstText == 0 && bytes.HasPrefix(line, []byte("data: ")) && hasText(line[len("data: "):]):
			found.firstText = time.Since(began)
		}
	}
	return found
}

func hasText(data []byte) bool {
	var event struct {
		Choices []struct {
			Delta struct {
				Content string `json:"content"`
			} `json:"delta"`
		} `json:"choices"`
	}
	return json.Unmarshal(data, &event) == nil && len(event.Choices) > 0 && event.Choices[0].Delta.Content != ""
}
