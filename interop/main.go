// Interop runs a management server made of go-control-plane, or reads a config dump with Envoy's Go types.
//
//	interop serve -port 0    the server, SotW and delta; commands on stdin, events on stdout, JSON lines
//	interop configdump FILE    what a config dump holds, as JSON
package main

import (
	"flag"
	"fmt"
	"os"
)

const usage = "usage: interop serve [-port N] | interop configdump FILE"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("%s", usage)
	}
	switch args[0] {
	case "serve":
		flags := flag.NewFlagSet("serve", flag.ContinueOnError)
		port := flags.Int("port", 0, "on 127.0.0.1; 0 is a free one")
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		return serve(*port, os.Stdin, os.Stdout)
	case "configdump":
		if len(args) != 2 {
			return fmt.Errorf("%s", usage)
		}
		return configDump(args[1], os.Stdout)
	}
	return fmt.Errorf("unknown command %q; %s", args[0], usage)
}
