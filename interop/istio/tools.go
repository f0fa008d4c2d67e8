//go:build tools

// Package istio pins the istiod and the istioctl that meshlib is tried against; `make istiod` builds them.
package istio

import (
	_ "istio.io/istio/istioctl/cmd/istioctl"
	_ "istio.io/istio/pilot/cmd/pilot-discovery"
)
