"""A folder of YAML: what is read, what stays in force, what is said about it."""

import logging
import os
import threading
import time

import pytest

from meshlib.controlplane.directory import Directory
from meshlib.controlplane.node import Node, NodeKind
from meshlib.controlplane.resources import ENDPOINT
from meshlib.errors import ConfigError
from waiting import until

ENTRY = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: shop}}
spec:
  hosts: [{name}.shop.svc.cluster.local]
  ports: [{{name: http, number: 80, protocol: HTTP, targetPort: {port}}}]
  resolution: STATIC
  endpoints: [{{address: 127.0.0.1}}]
"""
SUBSETS = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: catalog, namespace: shop}
spec:
  host: catalog
  subsets: [{name: v1, labels: {version: v1}}]
"""
ROUTE = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: catalog, namespace: shop}}
spec:
  hosts: [catalog]
  http:
  - route:
    - destination: {destination}
"""
NOWHERE = "{host: catalog, subset: v9}"
BROKEN = "kind: Service\nmetadata: {name: catalog\n"
NODE = Node(namespace="shop", id="sidecar~127.0.0.1~webapp-x.shop~shop.svc.cluster.local")


def entry(name="catalog", port=3000):
    return ENTRY.format(name=name, port=port)


def port_of(directory, name="catalog"):
    """The port that clients would dial: what an edit shows in."""
    assignment = directory.resources(NODE).by_type[ENDPOINT].get(f"outbound|80||{name}.shop.svc.cluster.local")
    if assignment is None:
        return None
    (endpoint,) = assignment.endpoints[0].lb_endpoints
    return endpoint.endpoint.address.socket_address.port_value


def targets(directory):
    """The subsets that routes in force lead to."""
    routes = (http for document in directory.documents.virtual_services for http in document.spec.http)
    return [item.destination.subset for http in routes for item in http.route]


class Watched:
    """A directory, and what it says of its changes."""

    def __init__(self, path):
        self.directory = Directory(path)
        self.changes = 0
        self._changed = threading.Condition()
        self.directory.subscribe(self._count)
        self.directory.start()

    def _count(self):
        with self._changed:
            self.changes += 1
            self._changed.notify_all()

    def wait(self, condition, timeout=5.0):
        """Wait until ``condition`` holds after some change, and return the seconds it took."""
        started = time.monotonic()
        with self._changed:
            assert self._changed.wait_for(condition, timeout), "the edit took no effect"
        return time.monotonic() - started


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "mesh"
    folder.mkdir()
    (folder / "catalog.yaml").write_text(entry())
    return folder


@pytest.fixture
def watched(folder):
    watched = Watched(folder)
    yield watched
    watched.directory.close()


def messages(caplog, level=logging.WARNING):
    return [record.message for record in caplog.records if record.levelno == level]


class TestReading:
    def test_a_missing_folder_says_what_to_do(self, tmp_path):
        with pytest.raises(ConfigError, match=r"there is no folder .*nowhere: create it and put"):
            Directory(tmp_path / "nowhere").start()

    def test_a_file_is_not_a_folder(self, folder):
        with pytest.raises(ConfigError, match=r"catalog\.yaml is not a folder"):
            Directory(folder / "catalog.yaml").start()

    def test_the_constructor_touches_nothing(self, tmp_path):
        Directory(tmp_path / "nowhere")

    def test_yaml_yml_and_json_are_read_at_any_depth_and_dot_names_are_not(self, folder):
        (folder / "a" / "b").mkdir(parents=True)
        (folder / "a" / "b" / "forum.yml").write_text(entry("forum"))
        (folder / "a" / "users.json").write_text(
            '{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "users"}, "spec": {"ports": [{"port": 80}]}}'
        )
        (folder / ".git").mkdir()
        (folder / ".git" / "x.yaml").write_text(BROKEN)
        (folder / ".#catalog.yaml").write_text(BROKEN)
        (folder / "notes.txt").write_text(BROKEN)
        directory = Directory(folder)
        assert directory.faults == ()
        assert directory.size == 3
        assert {item.name for item in directory.documents.service_entries} == {"catalog", "forum"}

    def test_a_broken_file_is_reported_and_the_others_apply(self, folder, caplog):
        (folder / "broken.yaml").write_text(BROKEN)
        directory = Directory(folder)
        assert port_of(directory) == 3000
        (fault,) = directory.faults
        assert (fault.file, fault.severity.value) == ("broken.yaml", "error")
        assert messages(caplog) == [str(fault)]

    def test_a_reference_that_leads_nowhere_is_reported_before_anyone_asks(self, folder):
        (folder / "vs.yaml").write_text(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: catalog, namespace: shop}\n"
            "spec:\n  hosts: [catalog]\n  http:\n  - route: [{destination: {host: catalogg}}]\n"
        )
        (fault,) = Directory(folder).faults
        assert (fault.file, fault.line) == ("vs.yaml", 7)
        assert "catalogg" in fault.message

    def test_an_empty_folder_is_told_of(self, tmp_path):
        (fault,) = Directory(tmp_path).faults
        assert str(fault) == ".: warning: there is no *.yaml, *.yml, *.json in the folder"

    def test_links_within_the_folder_are_followed_and_links_out_of_it_refused(self, folder, tmp_path):
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "secret.yaml").write_text(entry("secret"))
        (folder / "link.yaml").symlink_to(outside / "secret.yaml")
        (folder / "more").symlink_to(outside)
        (folder / "data.txt").write_text(entry("forum"))
        (folder / "forum.yaml").symlink_to("data.txt")
        (folder / "loop").symlink_to(".")
        directory = Directory(folder)
        assert {item.name for item in directory.documents.service_entries} == {"catalog", "forum"}
        assert [(fault.file, fault.message.partition(",")[0]) for fault in directory.faults] == [
            ("link.yaml", "is a symbolic link out of the folder"),
            ("more", "is a symbolic link out of the folder"),
        ]

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
    def test_a_fifo_is_refused_and_blocks_nobody(self, folder):
        os.mkfifo(folder / "pipe.yaml")
        directory = Directory(folder)
        assert [str(fault) for fault in directory.faults] == [
            "pipe.yaml: error: is not a regular file, and is not read"
        ]
        assert port_of(directory) == 3000

    def test_a_link_to_nothing_is_told_of(self, folder):
        (folder / "gone.yaml").symlink_to("nowhere.yaml")
        assert [str(fault) for fault in Directory(folder).faults] == [
            "gone.yaml: warning: is a symbolic link to nothing"
        ]

    def test_resources_are_made_once_for_each_node(self, folder):
        directory = Directory(folder)
        assert directory.resources(NODE) is directory.resources(NODE)
        other = Node(id=NODE.id, namespace="shop", kind=NodeKind.GRPC)
        assert directory.resources(other) is not directory.resources(NODE)


class TestWatching:
    def test_an_edit_applies_and_says_so(self, folder, watched, caplog):
        caplog.set_level(logging.INFO)
        version = watched.directory.version
        (folder / "catalog.yaml").write_text(entry(port=3001))
        assert watched.wait(lambda: port_of(watched.directory) == 3001) < 1
        assert watched.directory.version != version
        watched.directory.close()
        (message,) = messages(caplog, logging.INFO)
        assert message.startswith("applied catalog.yaml (ServiceEntry shop/catalog) in ")
        assert message.endswith(" ms")

    def test_a_new_file_in_a_new_folder_applies(self, folder, watched):
        (folder / "more").mkdir()
        (folder / "more" / "forum.yaml").write_text(entry("forum", 4000))
        watched.wait(lambda: port_of(watched.directory, "forum") == 4000)

    def test_every_one_of_many_quick_edits_is_seen_in_the_end_and_soon(self, folder, watched):
        latencies = []
        for port in range(3001, 3021):
            (folder / "catalog.yaml").write_text(entry(port=port))
            latencies.append(watched.wait(lambda port=port: port_of(watched.directory) == port))
        assert max(latencies) < 1
        for port in range(3021, 3121):
            (folder / "catalog.yaml").write_text(entry(port=port))
        watched.wait(lambda: port_of(watched.directory) == 3120)

    def test_an_editor_that_truncates_first_deletes_nothing(self, folder, watched):
        seen = []
        watched.directory.subscribe(lambda: seen.append(port_of(watched.directory)))
        with open(folder / "catalog.yaml", "w") as file:
            time.sleep(0.06)  # the file is empty for as long as a slow editor takes
            file.write(entry(port=3001))
        watched.wait(lambda: port_of(watched.directory) == 3001)
        assert seen == [3001]

    def test_an_editor_that_removes_first_deletes_nothing(self, folder, watched):
        seen = []
        watched.directory.subscribe(lambda: seen.append(port_of(watched.directory)))
        (folder / "catalog.yaml").unlink()
        time.sleep(0.06)
        (folder / "catalog.yaml").write_text(entry(port=3001))
        watched.wait(lambda: port_of(watched.directory) == 3001)
        assert seen == [3001]

    def test_an_editor_that_writes_beside_and_renames(self, folder, watched):
        seen = []
        watched.directory.subscribe(lambda: seen.append(port_of(watched.directory)))
        (folder / "catalog.yaml~").write_text(entry(port=3001))
        os.replace(folder / "catalog.yaml~", folder / "catalog.yaml")
        watched.wait(lambda: port_of(watched.directory) == 3001)
        assert seen == [3001]

    @pytest.mark.parametrize("gone", ["removed", "emptied"])
    def test_a_file_that_stays_gone_takes_effect(self, folder, watched, caplog, gone):
        caplog.set_level(logging.INFO)
        path = folder / "catalog.yaml"
        (folder / "forum.yaml").write_text(entry("forum"))
        watched.wait(lambda: port_of(watched.directory, "forum") == 3000)
        path.unlink() if gone == "removed" else path.write_text("\n")
        assert watched.wait(lambda: port_of(watched.directory) is None) >= 0.09
        watched.directory.close()
        assert messages(caplog, logging.INFO)[-1].startswith("removed catalog.yaml (ServiceEntry shop/catalog) in ")
        assert messages(caplog) == []

    def test_a_renamed_file_is_no_change_in_between(self, folder, watched, caplog):
        seen = []
        watched.directory.subscribe(lambda: seen.append(port_of(watched.directory)))
        os.replace(folder / "catalog.yaml", folder / "a-catalog.yaml")
        watched.wait(lambda: watched.directory.documents.service_entries[0].at.origin.file == "a-catalog.yaml")
        assert seen == [3000]
        assert messages(caplog) == []

    def test_the_files_of_a_config_map_are_swapped_at_once(self, tmp_path):
        """As the kubelet does: visible links lead through ``..data``, which is replaced."""
        folder = tmp_path / "mesh"
        folder.mkdir()
        for number in (1, 2):
            (folder / f"..{number}").mkdir()
            for name in ("catalog", "forum"):
                (folder / f"..{number}" / f"{name}.yaml").write_text(entry(name, 3000 + number))
        (folder / "..data").symlink_to("..1")
        for name in ("catalog", "forum"):
            (folder / f"{name}.yaml").symlink_to(f"..data/{name}.yaml")
        watched = Watched(folder)
        seen = []
        watched.directory.subscribe(
            lambda: seen.append((port_of(watched.directory), port_of(watched.directory, "forum")))
        )
        (folder / "..data_tmp").symlink_to("..2")
        os.replace(folder / "..data_tmp", folder / "..data")
        watched.wait(lambda: port_of(watched.directory) == 3002)
        watched.directory.close()
        assert seen == [(3002, 3002)]
        assert watched.directory.faults == ()

    def test_a_folder_that_goes_leaves_everything_in_force_and_is_watched_when_it_returns(
        self, folder, watched, tmp_path, caplog
    ):
        os.replace(folder, tmp_path / "away")
        deadline = time.monotonic() + 10
        while not watched.directory.faults:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert port_of(watched.directory) == 3000
        assert "what it held stays in force" in watched.directory.faults[0].message
        folder.mkdir()
        (folder / "catalog.yaml").write_text(entry(port=3001))
        watched.wait(lambda: port_of(watched.directory) == 3001)
        (folder / "catalog.yaml").write_text(entry(port=3002))
        watched.wait(lambda: port_of(watched.directory) == 3002)
        assert watched.directory.faults == ()


class TestBrokenEdits:
    def test_the_last_good_version_stays_and_other_files_apply(self, folder, watched, caplog):
        (folder / "forum.yaml").write_text(entry("forum"))
        watched.wait(lambda: port_of(watched.directory, "forum") == 3000)
        (folder / "catalog.yaml").write_text(BROKEN)
        (folder / "forum.yaml").write_text(entry("forum", 4001))
        watched.wait(lambda: port_of(watched.directory, "forum") == 4001)
        until(lambda: messages(caplog))
        assert port_of(watched.directory) == 3000
        (warning,) = messages(caplog)
        assert warning.startswith("catalog.yaml:3:1: error: not valid YAML")
        assert warning.endswith("(its last good version stays in force)")

    def test_it_is_told_of_again_only_when_it_changes(self, folder, watched, caplog):
        for number in range(2):
            (folder / "catalog.yaml").write_text(BROKEN + number * "\n")
            until(lambda number=number: len(messages(caplog)) == number + 1)
        (folder / "forum.yaml").write_text(entry("forum"))
        watched.wait(lambda: port_of(watched.directory, "forum") == 3000)
        assert len(messages(caplog)) == 2

    def test_it_is_mended(self, folder, watched):
        (folder / "catalog.yaml").write_text(BROKEN)
        until(lambda: watched.directory.faults)
        (folder / "catalog.yaml").write_text(entry(port=3001))
        watched.wait(lambda: port_of(watched.directory) == 3001)
        assert watched.directory.faults == ()

    def test_undoing_it_changes_nothing(self, folder, watched):
        version = watched.directory.version
        (folder / "catalog.yaml").write_text(BROKEN)
        until(lambda: watched.directory.faults)
        (folder / "catalog.yaml").write_text(entry())
        until(lambda: not watched.directory.faults)
        assert watched.directory.version == version
        assert watched.changes == 0

    def test_one_bad_document_holds_the_whole_file_back(self, folder, watched):
        (folder / "catalog.yaml").write_text(entry(port=3001) + "---\n" + entry("forum").replace("http", "[http"))
        until(lambda: watched.directory.faults)
        assert port_of(watched.directory) == 3000

    def test_a_file_that_never_was_good_improves_step_by_step(self, folder, caplog):
        path = folder / "shop.yaml"
        path.write_text(entry("forum") + "---\nkind: Service\n")
        watched = Watched(folder)
        assert port_of(watched.directory, "forum") == 3000
        # A change that keeps what is in force applies, although the other document is still wrong ...
        path.write_text(entry("forum", 4001) + "---\nkind: Service\n")
        watched.wait(lambda: port_of(watched.directory, "forum") == 4001)
        # ... and one that would lose it does not.
        path.write_text(BROKEN)
        until(lambda: any("not valid YAML" in fault.message for fault in watched.directory.faults))
        assert port_of(watched.directory, "forum") == 4001
        watched.directory.close()

    @pytest.mark.parametrize("destination", [NOWHERE, "{host: nowhere}"])
    def test_a_route_that_comes_to_lead_nowhere_is_not_applied(self, folder, watched, caplog, destination):
        (folder / "rule.yaml").write_text(SUBSETS)
        (folder / "route.yaml").write_text(ROUTE.format(destination="{host: catalog, subset: v1}"))
        watched.wait(lambda: targets(watched.directory) == ["v1"])
        (folder / "route.yaml").write_text(ROUTE.format(destination=destination))
        until(lambda: any("route.yaml:8:" in message for message in messages(caplog)))
        assert messages(caplog)[-1].endswith("(its last good version stays in force)")
        assert targets(watched.directory) == ["v1"]

    def test_a_new_route_that_leads_nowhere_applies_when_its_subset_is_there(self, folder, watched, caplog):
        (folder / "route.yaml").write_text(ROUTE.format(destination=NOWHERE))
        until(lambda: messages(caplog))
        assert messages(caplog)[-1].endswith("(the file is not applied until that is mended)")
        assert targets(watched.directory) == []
        (folder / "rule.yaml").write_text(SUBSETS.replace("{name: v1", "{name: v9"))
        watched.wait(lambda: targets(watched.directory) == ["v9"])

    def test_at_first_such_a_route_applies_as_in_istio_and_renaming_it_changes_nothing(self, folder):
        (folder / "route.yaml").write_text(ROUTE.format(destination=NOWHERE))
        watched = Watched(folder)
        assert targets(watched.directory) == ["v9"]
        os.replace(folder / "route.yaml", folder / "a-route.yaml")
        watched.wait(lambda: watched.directory.documents.virtual_services[0].at.origin.file == "a-route.yaml")
        assert targets(watched.directory) == ["v9"]
        watched.directory.close()

    def test_a_file_that_cannot_be_read_keeps_its_content(self, folder, watched, tmp_path):
        (tmp_path / "outside.yaml").write_text(entry(port=3001))
        (folder / "catalog.yaml").unlink()
        (folder / "catalog.yaml").symlink_to(tmp_path / "outside.yaml")
        until(lambda: watched.directory.faults)
        time.sleep(0.2)  # past the time after which a removed file takes effect
        assert port_of(watched.directory) == 3000


class TestLifecycle:
    def test_a_failing_subscriber_does_not_stop_the_others(self, folder, watched, caplog):
        def fail():
            raise ValueError("mine")

        watched.directory.subscribe(fail)
        seen = threading.Event()
        watched.directory.subscribe(seen.set)
        (folder / "catalog.yaml").write_text(entry(port=3001))
        assert seen.wait(5)
        assert "a subscriber of" in caplog.text

    def test_an_ended_subscription_is_not_called(self, folder, watched):
        seen = []
        unsubscribe = watched.directory.subscribe(lambda: seen.append(1))
        unsubscribe()
        unsubscribe()
        (folder / "catalog.yaml").write_text(entry(port=3001))
        watched.wait(lambda: port_of(watched.directory) == 3001)
        assert seen == []

    def test_closing_is_quick_and_idempotent_and_what_was_read_stays(self, watched):
        started = time.monotonic()
        watched.directory.close()
        watched.directory.close()
        assert time.monotonic() - started < 1
        assert port_of(watched.directory) == 3000

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    @pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
    def test_a_forked_child_keeps_what_was_read_and_can_watch_again(self, folder, watched):
        child = os.fork()
        if child == 0:
            try:
                directory = watched.directory
                assert port_of(directory) == 3000
                changed = threading.Event()
                directory.subscribe(changed.set)
                directory.start()
                (folder / "catalog.yaml").write_text(entry(port=3001))
                assert changed.wait(5)
                os._exit(0 if port_of(directory) == 3001 else 2)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        watched.wait(lambda: port_of(watched.directory) == 3001)
