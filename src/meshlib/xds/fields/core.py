"""Messages of ``config.core.v3`` and ``type.v3`` that occur in several resources."""

from __future__ import annotations

from collections.abc import Mapping

from meshlib.xds.fields.table import RUNTIME, Fields, fields

_CORE = "envoy.config.core.v3."
_TYPE = "envoy.type."
_SOCKET = "about accepting connections; nothing listens here"
_RESOLVER = "names are looked up by the process's resolver"

FIELDS: Mapping[str, Fields] = {
    _CORE + "HeaderValueOption": fields("header append append_action keep_empty_value"),
    _CORE + "HeaderValue": fields("key value raw_value"),
    _CORE + "DataSource": fields(
        "inline_bytes inline_string filename environment_variable",
        {"watched_directory": "belongs to filename; files in use are looked at whatever folder they are in"},
    ),
    _CORE + "Metadata": fields(
        "filter_metadata", {"typed_filter_metadata": "what is compared and shown is the filter_metadata"}
    ),
    _CORE + "Address": fields("socket_address pipe", faulty="envoy_internal_address"),
    _CORE + "SocketAddress": fields(
        "address port_value",
        {"ipv4_compat": _SOCKET, "resolver_name": _RESOLVER},
        faulty="protocol named_port",
        unsupported={"network_namespace_filepath": "connections leave from the process's own network namespace"},
    ),
    _CORE + "Pipe": fields("path", {"mode": _SOCKET}),
    _CORE + "CidrRange": fields("address_prefix prefix_len"),
    _CORE + "Locality": fields("region zone sub_zone"),
    _CORE + "ConfigSource": fields(
        "ads self path path_config_source api_config_source",
        {
            "resource_api_version": "version 3 is the only one there is",
            "initial_fetch_timeout": "obeyed beside the value: how long the client waits for what is named here",
        },
        unsupported={"authorities": "the stream's own server is asked"},
    ),
    _CORE + "SelfConfigSource": fields("", {"transport_api_version": "version 3 is the only one there is"}),
    _CORE + "TransportSocket": fields("name typed_config"),
    _CORE + "TypedExtensionConfig": fields("typed_config", {"name": "the type of the configuration says which"}),
    _CORE + "RuntimeFractionalPercent": fields("default_value", {"runtime_key": RUNTIME}),
    _TYPE + "v3.FractionalPercent": fields("numerator denominator"),
    _TYPE + "v3.Percent": fields("value"),
    _TYPE + "v3.Int64Range": fields("start end"),
    _TYPE + "matcher.v3.StringMatcher": fields("exact prefix suffix contains safe_regex ignore_case", faulty="custom"),
    _TYPE + "matcher.v3.RegexMatcher": fields("regex", {"google_re2": "every pattern is RE2's and bounded by it"}),
    _TYPE + "matcher.v3.RegexMatchAndSubstitute": fields("pattern substitution"),
}
