package main

import (
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	router "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Service is a cluster and its endpoints.
type Service struct {
	Name      string     `json:"name"`
	Endpoints []Endpoint `json:"endpoints"`
	// Bad gives the cluster a connect timeout below zero, which no client takes.
	Bad bool `json:"bad"`
}

// Endpoint is where a service answers.
type Endpoint struct {
	Address string `json:"address"`
	Port    uint32 `json:"port"`
}

// Route leads a path prefix of a host to a service. With Regex, the path is matched by that instead.
type Route struct {
	Host   string `json:"host"`
	Prefix string `json:"prefix"`
	Regex  string `json:"regex"`
	To     string `json:"to"`
}

const tableName = "80"

// newSnapshot makes the resources of a command: one listener, one route table, CDS and EDS.
func newSnapshot(command Command) (*cache.Snapshot, error) {
	front, err := newListener()
	if err != nil {
		return nil, err
	}
	var clusters, endpoints []types.Resource
	for _, service := range command.Services {
		clusters = append(clusters, newCluster(service))
		endpoints = append(endpoints, newEndpoints(service))
	}
	return cache.NewSnapshot(command.Version, map[resource.Type][]types.Resource{
		resource.ListenerType: {front},
		resource.RouteType:    {newTable(command.Routes)},
		resource.ClusterType:  clusters,
		resource.EndpointType: endpoints,
	})
}

func newListener() (*listener.Listener, error) {
	filter, err := anypb.New(&router.Router{})
	if err != nil {
		return nil, err
	}
	manager, err := anypb.New(&hcm.HttpConnectionManager{
		StatPrefix: "outbound",
		RouteSpecifier: &hcm.HttpConnectionManager_Rds{
			Rds: &hcm.Rds{ConfigSource: ads(), RouteConfigName: tableName},
		},
		HttpFilters: []*hcm.HttpFilter{{
			Name:       "envoy.filters.http.router",
			ConfigType: &hcm.HttpFilter_TypedConfig{TypedConfig: filter},
		}},
	})
	if err != nil {
		return nil, err
	}
	return &listener.Listener{
		Name:       "0.0.0.0_80",
		Address:    socketAddress("0.0.0.0", 80),
		BindToPort: wrapperspb.Bool(false),
		FilterChains: []*listener.FilterChain{{Filters: []*listener.Filter{{
			Name:       "envoy.filters.network.http_connection_manager",
			ConfigType: &listener.Filter_TypedConfig{TypedConfig: manager},
		}}}},
	}, nil
}

func newTable(routes []Route) *route.RouteConfiguration {
	table := &route.RouteConfiguration{Name: tableName}
	hosts := map[string]*route.VirtualHost{}
	for _, r := range routes {
		host := hosts[r.Host]
		if host == nil {
			host = &route.VirtualHost{Name: r.Host, Domains: []string{r.Host}}
			hosts[r.Host] = host
			table.VirtualHosts = append(table.VirtualHosts, host)
		}
		match := &route.RouteMatch{PathSpecifier: &route.RouteMatch_Prefix{Prefix: r.Prefix}}
		if r.Regex != "" {
			match.PathSpecifier = &route.RouteMatch_SafeRegex{SafeRegex: &matcher.RegexMatcher{Regex: r.Regex}}
		}
		host.Routes = append(host.Routes, &route.Route{
			Match: match,
			Action: &route.Route_Route{Route: &route.RouteAction{
				ClusterSpecifier: &route.RouteAction_Cluster{Cluster: r.To},
			}},
		})
	}
	return table
}

func newCluster(service Service) *cluster.Cluster {
	timeout := time.Second
	if service.Bad {
		timeout = -time.Second
	}
	return &cluster.Cluster{
		Name:                 service.Name,
		ConnectTimeout:       durationpb.New(timeout),
		ClusterDiscoveryType: &cluster.Cluster_Type{Type: cluster.Cluster_EDS},
		EdsClusterConfig:     &cluster.Cluster_EdsClusterConfig{EdsConfig: ads()},
	}
}

func newEndpoints(service Service) *endpoint.ClusterLoadAssignment {
	group := &endpoint.LocalityLbEndpoints{LoadBalancingWeight: wrapperspb.UInt32(1)}
	for _, e := range service.Endpoints {
		group.LbEndpoints = append(group.LbEndpoints, &endpoint.LbEndpoint{
			HostIdentifier: &endpoint.LbEndpoint_Endpoint{
				Endpoint: &endpoint.Endpoint{Address: socketAddress(e.Address, e.Port)},
			},
		})
	}
	return &endpoint.ClusterLoadAssignment{
		ClusterName: service.Name,
		Endpoints:   []*endpoint.LocalityLbEndpoints{group},
	}
}

func socketAddress(address string, port uint32) *core.Address {
	return &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
		Address: address, PortSpecifier: &core.SocketAddress_PortValue{PortValue: port},
	}}}
}

func ads() *core.ConfigSource {
	return &core.ConfigSource{
		ResourceApiVersion:    core.ApiVersion_V3,
		ConfigSourceSpecifier: &core.ConfigSource_Ads{Ads: &core.AggregatedConfigSource{}},
	}
}
