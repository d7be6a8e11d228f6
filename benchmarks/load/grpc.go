package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
)

const (
	sendMessage          = "/thumbwheel.chat.v1.ChatService/SendMessage"
	streamsPerConnection = 100
)

// raw is a codec that passes encoded messages unchanged. The request is already encoded, and only the
// presence of one field is read from events.
type raw struct{}

func (raw) Name() string                      { return "proto" }
func (raw) Marshal(value any) ([]byte, error) { return *value.(*[]byte), nil }
func (raw) Unmarshal(data []byte, value any) error {
	*value.(*[]byte) = data
	return nil
}

type grpcSender struct {
	connections []*grpc.ClientConn
	request     []byte
	textField   protowire.Number
	key         string
}

func newGRPC(target, request string, textField int, key string, streams int) *grpcSender {
	encoded, err := base64.StdEncoding.DecodeString(request)
	if err != nil {
		log.Fatal("-request: ", err)
	}
	sending := &grpcSender{request: encoded, textField: protowire.Number(textField), key: key}
	for range (streams + streamsPerConnection - 1) / streamsPerConnection {
		connection, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{})))
		if err != nil {
			log.Fatal("-grpc: ", err)
		}
		sending.connections = append(sending.connections, connection)
	}
	return sending
}

func (s *grpcSender) call(ctx context.Context, stream int) call {
	began := time.Now()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+s.key)
	connection := s.connections[stream%len(s.connections)]
	opened, err := connection.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, sendMessage)
	if err != nil {
		return ended(err)
	}
	if err := errors.Join(opened.SendMsg(&s.request), opened.CloseSend()); err != nil && !errors.Is(err, io.EOF) {
		return ended(err)
	}
	found := call{outcome: answered}
	for {
		var event []byte
		if err := opened.RecvMsg(&event); errors.Is(err, io.EOF) {
			if found.firstText == 0 {
				return call{outcome: failed, problem: "no text"}
			}
			found.whole = time.Since(began)
			return found
		} else if err != nil {
			return ended(err)
		}
		if found.firstText == 0 && hasField(event, s.textField) {
			found.firstText = time.Since(began)
		}
	}
}

func ended(err error) call {
	state := status.Convert(err)
	if state.Code() != codes.ResourceExhausted && state.Code() != codes.Unavailable {
		return call{outcome: failed, problem: fmt.Sprint(state.Code())}
	}
	for _, detail := range state.Details() {
		if retry, ok := detail.(*errdetails.RetryInfo); ok {
			return call{outcome: refused, retry: retry.GetRetryDelay().AsDuration()}
		}
	}
	return call{outcome: failed, problem: fmt.Sprint(state.Code(), " without a retry delay")}
}

func hasField(message []byte, wanted protowire.Number) bool {
	for len(message) > 0 {
		number, kind, length := protowire.ConsumeTag(message)
		if length < 0 {
			return false
		}
		if number == wanted {
			return true
		}
		skipped := protowire.ConsumeFieldValue(number, kind, message[length:])
		if skipped < 0 {
			return false
		}
		message = message[length+skipped:]
	}
	return false
}
