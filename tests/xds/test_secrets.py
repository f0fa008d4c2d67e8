"""SDS: which secrets are asked of whom, what they come to in a cluster, and that no key is shown or kept."""

import json
import os
import threading
import time

import pytest
from google.protobuf import json_format
from tenacity.wait import wait_fixed

import meshlib
from meshlib.model.snapshot import Style
from meshlib.model.tls import CertificateValidation, TlsCertificate
from meshlib.xds.assembly import Assembly, pack
from meshlib.xds.bootstrap import load
from meshlib.xds.bootstrap_parts import CertificateFiles
from meshlib.xds.client import XdsClient
from meshlib.xds.config_dump import as_json
from meshlib.xds.documents import import_types
from meshlib.xds.last_known_good import without_keys
from meshlib.xds.resource_type import RESOURCE_TYPES
from meshlib.xds.type_urls import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET

TIMEOUT = 10.0
HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
KEY = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"
ADS = {"ads": {}}
TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"


class Watch:
    """The snapshots a client publishes."""

    def __init__(self):
        self.snapshots = []
        self._changed = threading.Condition()

    def __call__(self, snapshot):
        with self._changed:
            self.snapshots.append(snapshot)
            self._changed.notify_all()

    def until(self, wanted):
        with self._changed:
            assert self._changed.wait_for(lambda: bool(self.snapshots) and wanted(self.snapshots[-1]), TIMEOUT)
        return self.snapshots[-1]


def until(wanted):
    deadline = time.monotonic() + TIMEOUT
    while not wanted():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def listener():
    hcm = {"@type": HCM, "rds": {"config_source": ADS, "route_config_name": "80"}}
    address = {"socket_address": {"address": "0.0.0.0", "port_value": 80}}
    chain = {"filters": [{"name": "hcm", "typed_config": hcm}]}
    return LISTENER, {"name": "0.0.0.0_80", "address": address, "filter_chains": [chain]}


def table(*clusters):
    hosts = [
        {"name": c, "domains": [c], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": c}}]} for c in clusters
    ]
    return ROUTE, {"name": "80", "virtual_hosts": hosts}


def endpoints(name, port):
    at = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
    return ENDPOINT, {"cluster_name": name, "endpoints": [{"lb_endpoints": [at]}]}


def by_cluster(name):
    return {"api_config_source": {"api_type": "GRPC", "grpc_services": [{"envoy_grpc": {"cluster_name": name}}]}}


def in_file(path):
    return {"path_config_source": {"path": str(path)}}


def sds(name, source):
    return {"name": name, **({"sds_config": source} if source else {})}


def mutual(source, certificate="own", trust="ca"):
    return {
        "tls_certificate_sds_secret_configs": [sds(certificate, source)],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": [SAN]},
            "validation_context_sds_secret_config": sds(trust, source),
        },
    }


SAN = {"san_type": "URI", "matcher": {"exact": "spiffe://a/catalog"}}


def own(name="own", key=KEY):
    return {
        "name": name,
        "tls_certificate": {"certificate_chain": {"inline_string": "c"}, "private_key": {"inline_string": key}},
    }


def ca(name="ca", path="/ca.pem"):
    return {"name": name, "validation_context": {"trusted_ca": {"filename": path}}}


def cluster(common, name="catalog", **fields):
    socket = {"name": "tls", "typed_config": {"@type": TLS, "common_tls_context": common}}
    eds = {"eds_config": ADS}
    return {"name": name, "type": "EDS", "eds_cluster_config": eds, "transport_socket": socket, **fields}


def message(url, data):
    import_types(data)
    return json_format.ParseDict(data, RESOURCE_TYPES[url].message())


def snapshot(common, *secrets, **options):
    """What a cluster's TLS comes to when these secrets are there."""
    assembly = Assembly(Style.STATIC, **options)
    faults = assembly.apply(
        "1",
        {
            CLUSTER: {"catalog": message(CLUSTER, {**cluster(common), "type": "STATIC"})},
            SECRET: {one["name"]: message(SECRET, one) for one in secrets},
        },
    )
    assert faults == ()
    return assembly.snapshot().clusters["catalog"].transport_socket.tls


class TestWhatTheyComeTo:
    def test_both_are_there(self):
        tls = snapshot(mutual(ADS), own(), ca())
        assert tls.refusal == ""
        assert isinstance(tls.certificate, TlsCertificate)
        assert tls.validation.trusted_ca.filename == "/ca.pem"
        assert [san.match.value for san in tls.validation.sans] == ["spiffe://a/catalog"]
        assert "PRIVATE" not in repr(tls)

    @pytest.mark.parametrize(
        ("secrets", "refusal"),
        [
            ([ca()], "the certificate 'own' of ADS: is not there"),
            ([own()], "the validation context 'ca' of ADS: is not there"),
            ([own(), {**own(), "name": "ca"}], "the validation context 'ca' of ADS: is another kind of secret"),
            ([ca(), ca("own")], "the certificate 'own' of ADS: is another kind of secret"),
            (
                [own(), {"name": "ca", "validation_context": {}}],
                "match_typed_subject_alt_names without trusted_ca",
            ),
        ],
    )
    def test_what_is_missing_refuses(self, secrets, refusal):
        assert snapshot(mutual(ADS), *secrets).refusal.startswith(refusal)

    def test_another_cluster_is_not_the_ads_stream(self):
        tls = snapshot(mutual(by_cluster("sds-grpc")), own(), ca())
        assert tls.refusal == (
            "the certificate 'own' of the cluster 'sds-grpc': is not asked for, since ADS does not go there"
        )

    def test_files_that_istios_agent_would_read(self):
        tls = snapshot(mutual(by_cluster("sds-grpc"), "file-cert:/c.pem~/k.pem", "file-root:/r.pem"))
        assert (str(tls.certificate.chain), str(tls.certificate.key)) == ("/c.pem", "/k.pem")
        assert (tls.validation.trusted_ca.filename, tls.refusal) == ("/r.pem", "")
        assert snapshot(mutual(by_cluster("sds-grpc"), "file-cert:/c~/k", "file-root:system")).validation.system_roots

    def test_certificate_providers(self):
        common = {
            "tls_certificate_provider_instance": {"instance_name": "default"},
            "validation_context": {
                "ca_certificate_provider_instance": {"instance_name": "default"},
                "match_typed_subject_alt_names": [SAN],
            },
        }
        files = {"default": CertificateFiles("/c.pem", "/k.pem", "/r.pem")}
        tls = snapshot(common, providers=files)
        assert (str(tls.certificate.key), str(tls.validation.trusted_ca), tls.refusal) == ("/k.pem", "/r.pem", "")
        assert "there is no such instance" in snapshot(common).refusal
        assert "no certificate_file" in snapshot(common, providers={"default": CertificateFiles()}).refusal

    @pytest.mark.parametrize(
        ("data", "field"),
        [
            ({"name": "s", "generic_secret": {"secret": {"inline_string": "x"}}}, "generic_secret"),
            ({"name": "s", "session_ticket_keys": {"keys": [{"inline_string": "x"}]}}, "session_ticket_keys"),
            ({"name": "s"}, ""),
            (
                {"name": "s", "tls_certificate": {"certificate_chain": {"inline_string": "x"}}},
                "tls_certificate.private_key",
            ),
            ({"name": "s", "tls_certificate": {"pkcs12": {"filename": "/x"}}}, "tls_certificate.pkcs12"),
        ],
    )
    def test_secrets_that_are_refused(self, data, field):
        examined = RESOURCE_TYPES[SECRET].examine(pack(SECRET, message(SECRET, data)))
        assert examined.resource is None
        assert field in [fault.field_path for fault in examined.faults]


@pytest.fixture
def started(ads_server):
    """Start a client of an Envoy bootstrap whose one server is told what to have."""
    clients = []

    def start(common, *secrets, static=(), other=None, before=lambda server: None, **options):
        server = ads_server()
        host, _, port = server.address.rpartition(":")
        at = [{"endpoint": {"address": {"socket_address": {"address": host, "port_value": int(port)}}}}]
        xds = {
            "name": "xds",
            "type": "STATIC",
            "http2_protocol_options": {},
            "load_assignment": {"cluster_name": "xds", "endpoints": [{"lb_endpoints": at}]},
        }
        bootstrap = load(
            {
                "node": {"id": "sidecar~1.1.1.1~a.b~b.svc.cluster.local"},
                "static_resources": {"clusters": [xds], "secrets": list(static)},
                "dynamic_resources": {
                    "ads_config": {"api_type": "GRPC", "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]},
                    "lds_config": ADS,
                    "cds_config": ADS,
                },
            }
        )
        give(server, common, *secrets, other=other)
        before(server)
        watch = Watch()
        client = XdsClient(bootstrap, watch, **{"reconnect": wait_fixed(0.05), "does_not_exist": 0.5, **options})
        clients.append(client)
        client.start()
        return server, client, watch

    yield start
    for client in clients:
        client.close()


def give(server, common, *secrets, other=None, version="1"):
    """Give a server the cluster ``catalog`` with this TLS, and ``plain`` with ``other`` or none."""
    described = [listener(), table("catalog", "plain"), endpoints("catalog", 1), endpoints("plain", 2)]
    described += [
        (CLUSTER, cluster(common)),
        (CLUSTER, cluster(other, "plain") if other else {**cluster({}, "plain"), "transport_socket": None}),
    ]
    described += [(SECRET, one) for one in secrets]
    server.version = version
    for url in (LISTENER, ROUTE, CLUSTER, ENDPOINT, SECRET):
        server.resources[url] = {
            data.get("name") or data["cluster_name"]: message(url, data) for kind, data in described if kind == url
        }


def deny(server):
    server.unknown = frozenset({SECRET})


def tls_of(seen, name="catalog"):
    found = seen.clusters.get(name)
    return found.transport_socket.tls if found is not None else None


class TestWhoIsAsked:
    def test_the_ads_stream_for_clusters_in_use_alone(self, started):
        server, client, watch = started(mutual(ADS), own(), ca(), on_demand=True)
        watch.until(lambda s: "catalog" in s.dormant)
        client.wake("plain")
        watch.until(lambda s: s.clusters.get("plain") is not None)
        assert not any(request.type_url == SECRET for _, request in server.requests)
        client.wake("catalog")
        seen = watch.until(lambda s: tls_of(s) is not None)
        assert tls_of(seen).refusal == ""
        server.expect(lambda r: r.type_url == SECRET and set(r.resource_names) == {"own", "ca"})

    def test_a_rotation_reaches_the_cluster(self, started):
        server, _, watch = started(mutual(ADS), own(), ca())
        watch.until(lambda s: tls_of(s) is not None)
        give(server, mutual(ADS), own(key=KEY.replace("c2Vj", "b2Vj")), ca(path="/new.pem"), version="2")
        server.update("2", SECRET)
        seen = watch.until(lambda s: tls_of(s).validation.trusted_ca.filename == "/new.pem")
        assert seen.changed[0] == {"catalog"}

    def test_a_secret_that_never_comes_refuses_the_cluster(self, started):
        _, client, watch = started(mutual(ADS), ca())
        seen = watch.until(lambda s: True)
        assert tls_of(seen).refusal == "the certificate 'own' of ADS: is not there"
        assert seen.clusters["plain"].transport_socket is None
        assert client.status.connected

    def test_a_server_that_ends_the_stream_over_secrets_is_not_asked_for_ever(self, started, caplog):
        """As istiod does where a sidecar may have none: their clusters refuse, and the rest goes on."""
        server, client, watch = started(mutual(ADS), own(), ca(), on_demand=True, before=deny)
        watch.until(lambda s: "catalog" in s.dormant)
        client.wake("plain")
        watch.until(lambda s: s.clusters.get("plain") is not None)
        client.wake("catalog")
        seen = watch.until(lambda s: tls_of(s) is not None)
        assert tls_of(seen).refusal == "the certificate 'own' of ADS: is not there"
        assert "gives no secrets" in caplog.text
        until(lambda: client.status.connected)
        server.update("2", CLUSTER)
        server.expect(lambda r: r.type_url == CLUSTER and r.version_info == "2")
        assert len({stream for stream, r in server.requests if r.type_url == SECRET}) == 2

    def test_a_bad_secret_is_refused_and_the_last_good_stays(self, started):
        server, client, watch = started(mutual(ADS), own(), ca())
        watch.until(lambda s: tls_of(s) is not None)
        give(server, mutual(ADS), own(), {"name": "ca", "generic_secret": {}}, version="2")
        server.update("2", SECRET)
        nack = server.expect(lambda r: r.type_url == SECRET and r.error_detail.message)
        assert "generic_secret" in nack.error_detail.message
        until(lambda: client.status.faults)
        assert tls_of(watch.snapshots[-1]).validation.trusted_ca.filename == "/ca.pem"

    def test_another_cluster_is_never_asked_in_the_ads_stream(self, started):
        server, _, watch = started(mutual(by_cluster("sds-grpc")), own(), ca())
        seen = watch.until(lambda s: True)
        assert "the cluster 'sds-grpc'" in tls_of(seen).refusal
        assert not any(request.type_url == SECRET for _, request in server.requests)

    def test_the_cluster_that_ads_goes_to_is(self, started):
        server, _, watch = started(mutual(by_cluster("xds")), own(), ca())
        seen = watch.until(lambda s: True)
        assert tls_of(seen).refusal == ""
        server.expect(lambda r: r.type_url == SECRET and set(r.resource_names) == {"own", "ca"} and r.version_info)
        give(server, mutual(by_cluster("xds")), own(), ca(path="/new.pem"), version="2")
        server.update("2", SECRET)
        watch.until(lambda s: tls_of(s).validation.trusted_ca.filename == "/new.pem")

    def test_one_secret_by_two_sources(self, started):
        """It is asked for once, kept as long as either needs it, and each gets it whenever it comes to need it."""
        config = {"other": mutual(by_cluster("xds")), "on_demand": True, "usage": lambda: ["plain"], "idle_after": 0.4}
        server, client, watch = started(mutual(ADS), own(), ca(), **config)
        watch.until(lambda s: "catalog" in s.dormant)
        client.wake("catalog")
        watch.until(lambda s: tls_of(s) is not None)
        client.wake("plain")
        seen = watch.until(lambda s: tls_of(s, "plain") is not None)
        assert (tls_of(seen).refusal, tls_of(seen, "plain").refusal) == ("", "")
        watch.until(lambda s: tls_of(s) is None)  # idle
        give(server, mutual(ADS), own(), ca(path="/new.pem"), other=mutual(by_cluster("xds")), version="2")
        server.update("2", SECRET)
        watch.until(lambda s: tls_of(s, "plain").validation.trusted_ca.filename == "/new.pem")
        asked = [set(r.resource_names) for _, r in server.requests if r.type_url == SECRET]
        assert asked
        assert all(names == {"own", "ca"} for names in asked)

    def test_the_bootstraps_own(self, started):
        server, _, watch = started(mutual(None), static=[own(), ca()])
        assert tls_of(watch.until(lambda s: True)).refusal == ""
        assert not any(request.type_url == SECRET for _, request in server.requests)
        server, _, watch = started(mutual(None), static=[own()])
        assert (
            tls_of(watch.until(lambda s: True)).refusal == "the validation context 'ca' of the bootstrap: is not there"
        )

    def test_a_watched_file(self, started, tmp_path):
        path = tmp_path / "sds.json"
        write(path, "1", own(), ca())
        server, _, watch = started(mutual(in_file(path)))
        assert tls_of(watch.until(lambda s: True)).refusal == ""
        write(path, "2", own(), ca(path="/new.pem"))
        watch.until(lambda s: tls_of(s).validation.trusted_ca.filename == "/new.pem")
        path.write_text("{")
        assert not any(request.type_url == SECRET for _, request in server.requests)

    def test_a_file_that_comes_later(self, started, tmp_path):
        path = tmp_path / "sds.json"
        _, _, watch = started(mutual(in_file(path)))
        assert "is not there" in tls_of(watch.until(lambda s: True)).refusal
        write(path, "1", own(), ca())
        watch.until(lambda s: tls_of(s).refusal == "")


def write(path, version, *secrets):
    resources = [{"@type": SECRET, **secret} for secret in secrets]
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({"version_info": version, "resources": resources}))
    os.replace(fresh, path)


class TestNoKeyIsShownOrKept:
    def test_in_dumps(self, started):
        _, client, watch = started(mutual(ADS), own(), ca())
        watch.until(lambda s: tls_of(s) is not None)
        dump = as_json(client.inventory())
        assert "c2VjcmV0" not in json.dumps(dump)
        assert "PRIVATE" not in json.dumps(dump)
        (section,) = [one for one in dump["configs"] if one["@type"].endswith("SecretsConfigDump")]
        shown = {one["name"]: one["secret"] for one in section["dynamic_active_secrets"]}
        assert shown["own"]["tls_certificate"]["private_key"]["inline_string"] == "[redacted]"
        assert shown["ca"]["validation_context"]["trusted_ca"]["filename"] == "/ca.pem"

    def test_in_the_last_known_good_file(self, started, tmp_path):
        inline = {
            "tls_certificates": [{"certificate_chain": {"inline_string": "c"}, "private_key": {"inline_string": KEY}}],
            "validation_context": {"trusted_ca": {"filename": "/ca.pem"}},
        }
        path = tmp_path / "good"
        _, client, watch = started(inline, last_known_good=path)
        watch.until(lambda s: tls_of(s) is not None)
        client.close()
        assert path.exists()
        assert b"c2VjcmV0" not in path.read_bytes()
        assert b"PRIVATE KEY" not in path.read_bytes()

    def test_nor_are_secrets(self, started, tmp_path):
        path = tmp_path / "good"
        server, client, watch = started(mutual(ADS), own(), ca(), last_known_good=path)
        watch.until(lambda s: tls_of(s) is not None)
        client.close()
        assert b"c2VjcmV0" not in path.read_bytes()
        server.stop()
        _, _, watch = started(mutual(ADS), last_known_good=path)
        seen = watch.until(lambda s: tls_of(s) is not None)
        assert "is not there" in tls_of(seen).refusal

    def test_resources_without_keys_are_kept_as_they_are(self):
        raw = pack(CLUSTER, message(CLUSTER, cluster(mutual(ADS))))
        assert without_keys(raw) is raw


def test_shapes_keep_the_secrets_they_name():
    for name in ("a", "b"):
        examined = RESOURCE_TYPES[CLUSTER].examine(pack(CLUSTER, message(CLUSTER, cluster(mutual(ADS), name))))
        assert set(examined.resource.references) == {(ENDPOINT, name), (SECRET, "own"), (SECRET, "ca")}
        assert isinstance(examined.resource.value.transport_socket.tls.validation, CertificateValidation)


def test_an_error_names_what_is_to_be_done():
    assert issubclass(meshlib.TransportSecurityUnavailable, meshlib.MeshError)
