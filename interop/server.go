package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"sync"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/sotw/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
)

// oneNode gives every client the same snapshot.
type oneNode struct{}

func (oneNode) ID(*core.Node) string { return "any" }

// Event is one line of stdout.
type Event struct {
	Event string `json:"event"` // serving, open, closed, ack, nack, set
	Type  string `json:"type,omitempty"`
	Error string `json:"error,omitempty"`
	// Version is that of the snapshot that was set, or that the client has accepted (SotW alone tells).
	Version string `json:"version,omitempty"`
	Address string `json:"address,omitempty"`
	Node    string `json:"node,omitempty"`
}

// events writes events, one at a time.
type events struct {
	mu  sync.Mutex
	out *json.Encoder
}

func (e *events) say(event Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	_ = e.out.Encode(event) // the reader of stdout is the one who started us; gone, so are we
}

func (e *events) request(url, nonce, version string, node *core.Node, fault *status.Status) {
	switch {
	case fault != nil:
		e.say(Event{Event: "nack", Type: url, Error: fault.GetMessage(), Version: version})
	case nonce != "":
		e.say(Event{Event: "ack", Type: url, Version: version})
	default:
		e.say(Event{Event: "request", Type: url, Version: version, Node: node.GetId()})
	}
}

// callbacks tells of every stream, ACK and NACK.
func (e *events) callbacks() server.CallbackFuncs {
	return server.CallbackFuncs{
		StreamOpenFunc:        func(context.Context, int64, string) error { e.say(Event{Event: "open"}); return nil },
		StreamClosedFunc:      func(int64, *core.Node) { e.say(Event{Event: "closed"}) },
		DeltaStreamOpenFunc:   func(context.Context, int64, string) error { e.say(Event{Event: "open"}); return nil },
		DeltaStreamClosedFunc: func(int64, *core.Node) { e.say(Event{Event: "closed"}) },
		StreamRequestFunc: func(_ int64, r *discovery.DiscoveryRequest) error {
			e.request(r.GetTypeUrl(), r.GetResponseNonce(), r.GetVersionInfo(), r.GetNode(), r.GetErrorDetail())
			return nil
		},
		StreamDeltaRequestFunc: func(_ int64, r *discovery.DeltaDiscoveryRequest) error {
			e.request(r.GetTypeUrl(), r.GetResponseNonce(), "", r.GetNode(), r.GetErrorDetail())
			return nil
		},
	}
}

// Command is one line of stdin: what the mesh is from now on.
type Command struct {
	Version  string    `json:"version"`
	Services []Service `json:"services"`
	Routes   []Route   `json:"routes"`
}

// serve runs the server until stdin ends.
func serve(port int, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	said := &events{out: json.NewEncoder(out)}
	snapshots := cache.NewSnapshotCache(true, oneNode{}, nil)

	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	transport := grpc.NewServer()
	discovery.RegisterAggregatedDiscoveryServiceServer(
		transport, server.NewServer(ctx, snapshots, said.callbacks(), sotw.WithOrderedADS()))
	failed := make(chan error, 1)
	go func() { failed <- transport.Serve(listener) }()
	defer transport.Stop()
	said.say(Event{Event: "serving", Address: listener.Addr().String()})

	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		select {
		case err := <-failed:
			return err
		default:
		}
		var command Command
		if err := json.Unmarshal(lines.Bytes(), &command); err != nil {
			return fmt.Errorf("command: %w", err)
		}
		snapshot, err := newSnapshot(command)
		if err != nil {
			return fmt.Errorf("version %s: %w", command.Version, err)
		}
		if err := snapshots.SetSnapshot(ctx, "any", snapshot); err != nil {
			return fmt.Errorf("version %s: %w", command.Version, err)
		}
		said.say(Event{Event: "set", Version: command.Version})
	}
	return lines.Err()
}
