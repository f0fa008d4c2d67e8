"""Every field of every message received is honoured, listed or explained, and no table says what is not so."""

import functools

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pool import Default
from google.protobuf.unknown_fields import UnknownFieldSet

from honesty.captured import captures, content, resources
from honesty.samples import samples
from honesty.walking import ANY, VALUES, below, edited, messages, path, value_type
from meshlib.nds import NameTable
from meshlib.xds.faults import Status
from meshlib.xds.fields import FIELDS
from meshlib.xds.fields.table import Fields
from meshlib.xds.filters import IRRELEVANT_FILTER_CONFIGS, IRRELEVANT_FILTERS, IRRELEVANT_NETWORK_FILTERS
from meshlib.xds.resource_type import RESOURCE_TYPES

# Extensions that are of no matter whole, by the type of their configuration or the name of the filter.
IRRELEVANT = {**IRRELEVANT_FILTERS, **IRRELEVANT_NETWORK_FILTERS, **IRRELEVANT_FILTER_CONFIGS}

# Honoured fields whose change does not show in what a resource decodes to.
UNSEEN = {
    "envoy.config.cluster.v3.Cluster.TransportSocketMatch.transport_socket": "a name is asked of it at once",
    "envoy.extensions.transport_sockets.tls.v3.Secret.name": "it is found by it",
}


def unexplained(message, noted, steps=()):
    """Yield the path of every field that is set and neither honoured, nor noted, nor irrelevant."""
    table = FIELDS.get(message.DESCRIPTOR.full_name)
    if len(UnknownFieldSet(message)):
        yield path(steps, f"(a field that {message.DESCRIPTOR.full_name} does not have)")
    for field, value in message.ListFields():
        at = path(steps, field.name)
        if at in noted or (table is not None and field.name in table.irrelevant):
            continue
        if table is None or field.name not in table.honoured:
            yield f"{at} of {message.DESCRIPTOR.full_name}"
            continue
        for step, inner in below(field, value):
            if path((*steps, step)) not in noted:
                yield from _inside(message, inner, noted, (*steps, step))


def _inside(message, inner, noted, steps):
    if inner.DESCRIPTOR.full_name in VALUES:
        return
    if inner.DESCRIPTOR.full_name != ANY:
        yield from unexplained(inner, noted, steps)
        return
    if inner.type_url.rpartition("/")[2] in IRRELEVANT or getattr(message, "name", "") in IRRELEVANT:
        return
    held = content(inner)
    if held is None:
        yield f"{path(steps)}: {inner.type_url}"
    else:
        yield from unexplained(held, noted, steps)


def left_over(kind, message):
    """Return what of a resource is unexplained. An inbound listener has one note for its whole."""
    decoded = kind.decode(getattr(message, kind.name_field), message)
    assert decoded.faults == ()
    noted = {note.field_path for note in decoded.notes}
    return [] if "traffic_direction" in noted else list(unexplained(message, noted))


@pytest.mark.parametrize("everything", [False, True], ids=["ours", "all"])
def test_every_field_of_the_captures_is_honoured_listed_or_explained(everything):
    found, seen = {}, set()
    for capture in captures(everything=everything):
        for url, packed in resources(capture):
            for each in packed:
                if each.value not in seen:
                    seen.add(each.value)
                    kind = RESOURCE_TYPES[url]
                    for place in left_over(kind, kind.message.FromString(each.value)):
                        found.setdefault(place, f"{capture}: {kind.examine(each.SerializeToString()).name}")
    if everything and len(captures()) == len(captures(everything=False)):
        pytest.skip("no other captures stand beside the checkout")
    assert len(seen) > (500 if everything else 10)
    assert found == {}


@pytest.mark.parametrize(("url", "message"), samples())
def test_every_field_of_the_samples_is_honoured_listed_or_explained(url, message):
    assert left_over(RESOURCE_TYPES[url], message) == []


def test_the_walk_finds_what_is_not_explained():
    url, message = next(sample for sample in samples() if sample[1].DESCRIPTOR.name == "Cluster")
    kind = RESOURCE_TYPES[url]
    assert left_over(kind, message) == []
    message.upstream_config.name = "a pool of its own"
    assert list(unexplained(message, set())) == ["upstream_config of envoy.config.cluster.v3.Cluster"]
    message.ClearField("upstream_config")
    message.MergeFromString(b"\xfa\xff\x03\x01a")  # field 8191, which no version has
    assert left_over(kind, message) == ["(a field that envoy.config.cluster.v3.Cluster does not have)"]


class Place:
    """One message of a table's type in a sample."""

    def __init__(self, url, sample, steps, message):
        self.steps = steps
        self.message = message
        self._kind = RESOURCE_TYPES[url]
        self._sample = sample

    def decode(self, edit):
        return self._kind.decode("sample", edited(self._sample, self.steps, edit))

    @functools.cached_property
    def before(self):
        return self._kind.decode("sample", self._sample)


@pytest.fixture(scope="module")
def places():
    """The messages of the samples by type; of those that differ in an index alone, one."""
    found = {}
    for url, sample in samples():
        untold = []  # what is below a message without a table is no decoder's to read
        for steps, message in messages(sample):
            if message.DESCRIPTOR.full_name not in FIELDS:
                untold.append(steps)
            if any(steps[: len(above)] == above for above in untold):
                continue
            alike = (url, *(step.field for step in steps), *(f.name for f, _ in message.ListFields()))
            found.setdefault(message.DESCRIPTOR.full_name, {}).setdefault(alike, Place(url, sample, steps, message))
    return {name: list(by_path.values()) for name, by_path in found.items()}


def known_fields():
    return [
        pytest.param(table, field, id=f"{name.removeprefix('envoy.')}.{field.name}")
        for name, table in FIELDS.items()
        if not name.startswith(NameTable.DESCRIPTOR.full_name)
        for field in content_type(name).fields
    ]


def content_type(name):
    pool = NameTable.DESCRIPTOR.file.pool if name.startswith(NameTable.DESCRIPTOR.full_name) else Default()
    return pool.FindMessageTypeByName(name)


_SCALARS = {
    FieldDescriptor.CPPTYPE_STRING: ("x-changed", "/changed", "changed.example"),
    FieldDescriptor.CPPTYPE_BOOL: (True, False),
    FieldDescriptor.CPPTYPE_DOUBLE: (33.0,),
    FieldDescriptor.CPPTYPE_FLOAT: (33.0,),
}


def scalars(field):
    """Return values to set a scalar field to."""
    if field.enum_type is not None:
        return [value.number for value in field.enum_type.values]
    if field.type == FieldDescriptor.TYPE_BYTES:
        return [b"changed"]
    return _SCALARS.get(field.cpp_type, (1, 2, 7, 401))


def fillings(descriptor, depth=2):
    """Yield edits that put something into an empty message; the first leaves it empty."""
    yield lambda _: None
    if descriptor.full_name == ANY:
        yield lambda message: setattr(message, "type_url", "type.googleapis.com/changed")
    elif depth:
        for field in descriptor.fields:
            yield from changes(field, depth - 1)


def changes(field, depth=2):
    """Yield edits of a message that change one field of it."""
    name, kind = field.name, value_type(field)
    yield lambda message: message.ClearField(name)
    is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
    if is_map and kind is None:
        yield lambda message: getattr(message, name).update({"changed": "changed"})
    elif is_map:
        yield lambda message: getattr(message, name)["changed"].SetInParent()
    elif field.is_repeated and kind is None:
        for value in scalars(field):
            yield lambda message, value=value: getattr(message, name).append(value)
    elif field.is_repeated:
        for fill in fillings(kind, depth):
            yield lambda message, fill=fill: fill(getattr(message, name).add())
    elif kind is None:
        for value in scalars(field):
            yield lambda message, value=value: setattr(message, name, value)
    else:
        for fill in fillings(kind, depth):

            def put(message, fill=fill):
                message.ClearField(name)
                getattr(message, name).SetInParent()
                fill(getattr(message, name))

            yield put


def is_set(message, field):
    return any(found.name == field.name for found, _ in message.ListFields())


@pytest.mark.parametrize(("table", "field"), known_fields())
def test_what_a_table_says_of_a_field_is_so(places, table, field):
    """Honoured: a change shows. Irrelevant: none does. Otherwise: it is noted, or a fault, wherever it is set."""
    name = field.containing_type.full_name
    assert places.get(name), "no sample has such a message"
    if field.name in table.honoured:
        if f"{name}.{field.name}" not in UNSEEN:
            assert any(place.decode(change) != place.before for place in places[name] for change in changes(field)), (
                "is called honoured, and no change of it shows"
            )
        return
    for place in places[name]:
        kept = [change for change in changes(field, 1) if is_set(edited(place.message, (), change), field)][:3]
        assert kept
        for change in kept:
            after = place.decode(change)
            if field.name in table.irrelevant:
                assert after == place.before, f"{path(place.steps)} is irrelevant and yet shows"
            elif field.name in table.faulty:
                assert after.faults, path(place.steps)
            else:
                at, wanted = path(place.steps, field.name), table.note(field.name)
                assert wanted in [(n.status, n.consequence) for n in after.notes if n.field_path == at], at


def test_every_message_in_an_honoured_field_has_a_table():
    lacking = set()
    for name, table in FIELDS.items():
        for field in content_type(name).fields:
            kind = value_type(field)
            if field.name in table.honoured and kind is not None and kind.fields:
                lacking |= {kind.full_name} - FIELDS.keys() - VALUES - {ANY}
    assert lacking == set()


def test_every_name_in_a_table_is_a_field():
    for name, table in FIELDS.items():
        names = {*table.honoured, *table.irrelevant, *table.faulty, *table.noted}
        assert names <= set(content_type(name).fields_by_name), name


def test_every_reason_says_something():
    for table in FIELDS.values():
        assert all(len(reason.split()) > 2 for reason in table.irrelevant.values())
        assert all(len(consequence.split()) > 2 for _, consequence in table.noted.values())


def test_a_field_is_in_one_column_alone():
    for name, table in FIELDS.items():
        columns = [table.honoured, table.irrelevant.keys(), table.faulty, table.noted.keys()]
        assert sum(map(len, columns)) == len(set().union(*columns)), name


def test_what_no_table_names_is_noted():
    assert Fields().note("anything") == (Status.NOT_HONOURED, "is not honoured")
