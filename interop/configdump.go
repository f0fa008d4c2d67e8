package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	_ "github.com/cncf/xds/go/udpa/type/v1" // TypedStruct, which istiod sends and istioctl links, too
	admin "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Held is what a dump holds, by the resources' names.
type Held struct {
	Sections  []string       `json:"sections"` // the types of the dump's parts, in order
	Listeners []string       `json:"listeners"`
	Routes    []string       `json:"routes"`
	Clusters  []string       `json:"clusters"`
	Endpoints map[string]int `json:"endpoints"` // by cluster
	// Errors are the error states of resources whose last update was refused.
	Errors map[string]string `json:"errors"`
}

// configDump reads a dump as istioctl does: protojson into ConfigDump, every Any unpacked. Unlike
// istioctl it does not pass over unknown fields.
func configDump(path string, out io.Writer) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var dump admin.ConfigDump
	if err := protojson.Unmarshal(data, &dump); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	held := Held{
		Listeners: []string{}, Routes: []string{}, Clusters: []string{},
		Endpoints: map[string]int{}, Errors: map[string]string{},
	}
	for i, packed := range dump.GetConfigs() {
		held.Sections = append(held.Sections, string(packed.MessageName().Name()))
		section, err := packed.UnmarshalNew()
		if err == nil {
			err = held.add(section)
		}
		if err != nil {
			return fmt.Errorf("%s: configs[%d]: %w", path, i, err)
		}
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(held)
}

func (h *Held) add(section proto.Message) error {
	switch dump := section.(type) {
	case *admin.ListenersConfigDump:
		return h.addListeners(dump)
	case *admin.RoutesConfigDump:
		return h.addRoutes(dump)
	case *admin.ClustersConfigDump:
		return h.addClusters(dump)
	case *admin.EndpointsConfigDump:
		return h.addEndpoints(dump)
	}
	return nil // the bootstrap, secrets and others: parsed, and not counted
}

func (h *Held) addListeners(dump *admin.ListenersConfigDump) error {
	for _, static := range dump.GetStaticListeners() {
		if err := h.addListener(static.GetListener()); err != nil {
			return err
		}
	}
	for _, dynamic := range dump.GetDynamicListeners() {
		h.refused(dynamic.GetName(), dynamic.GetErrorState())
		if state := dynamic.GetActiveState(); state != nil {
			if err := h.addListener(state.GetListener()); err != nil {
				return err
			}
		}
	}
	return nil
}

func (h *Held) addListener(packed *anypb.Any) error {
	var found listener.Listener
	err := packed.UnmarshalTo(&found)
	h.Listeners = append(h.Listeners, found.GetName())
	return err
}

func (h *Held) addRoutes(dump *admin.RoutesConfigDump) error {
	packed := make([]*anypb.Any, 0, len(dump.GetStaticRouteConfigs())+len(dump.GetDynamicRouteConfigs()))
	for _, static := range dump.GetStaticRouteConfigs() {
		packed = append(packed, static.GetRouteConfig())
	}
	for _, dynamic := range dump.GetDynamicRouteConfigs() {
		if dynamic.GetRouteConfig() != nil {
			packed = append(packed, dynamic.GetRouteConfig())
		}
		h.refused("route", dynamic.GetErrorState())
	}
	for _, one := range packed {
		var found route.RouteConfiguration
		if err := one.UnmarshalTo(&found); err != nil {
			return err
		}
		h.Routes = append(h.Routes, found.GetName())
	}
	return nil
}

func (h *Held) addClusters(dump *admin.ClustersConfigDump) error {
	packed := make([]*anypb.Any, 0, len(dump.GetStaticClusters())+len(dump.GetDynamicActiveClusters()))
	for _, static := range dump.GetStaticClusters() {
		packed = append(packed, static.GetCluster())
	}
	for _, dynamic := range dump.GetDynamicActiveClusters() {
		if dynamic.GetCluster() != nil {
			packed = append(packed, dynamic.GetCluster())
		}
		h.refused("cluster", dynamic.GetErrorState())
	}
	for _, one := range packed {
		var found cluster.Cluster
		if err := one.UnmarshalTo(&found); err != nil {
			return err
		}
		h.Clusters = append(h.Clusters, found.GetName())
	}
	return nil
}

func (h *Held) addEndpoints(dump *admin.EndpointsConfigDump) error {
	packed := make([]*anypb.Any, 0, len(dump.GetStaticEndpointConfigs())+len(dump.GetDynamicEndpointConfigs()))
	for _, static := range dump.GetStaticEndpointConfigs() {
		packed = append(packed, static.GetEndpointConfig())
	}
	for _, dynamic := range dump.GetDynamicEndpointConfigs() {
		if dynamic.GetEndpointConfig() != nil {
			packed = append(packed, dynamic.GetEndpointConfig())
		}
		h.refused("endpoints", dynamic.GetErrorState())
	}
	for _, one := range packed {
		var found endpoint.ClusterLoadAssignment
		if err := one.UnmarshalTo(&found); err != nil {
			return err
		}
		count := 0
		for _, group := range found.GetEndpoints() {
			count += len(group.GetLbEndpoints())
		}
		h.Endpoints[found.GetClusterName()] = count
	}
	return nil
}

func (h *Held) refused(name string, state *admin.UpdateFailureState) {
	if state != nil {
		h.Errors[name] = state.GetDetails()
	}
}
