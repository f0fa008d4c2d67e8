import socket

from meshlib.cli.demo.ports import Ports, any_free_port


def test_a_free_port_is_given_as_wanted():
    messages: list[str] = []
    wanted = any_free_port()

    assert Ports(messages.append).take(wanted, "the sample app") == wanted
    assert messages == []


def test_a_taken_port_is_replaced_with_a_message():
    messages: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wanted = taken.getsockname()[1]
        given = Ports(messages.append).take(wanted, "the sample app")

    assert given != wanted
    assert messages == [f"port {wanted} is taken; using {given} for the sample app"]


def test_a_port_is_given_only_once():
    ports = Ports(lambda _message: None)
    wanted = any_free_port()

    assert len({ports.take(wanted, "a"), ports.take(wanted, "b"), ports.take_any()}) == 3
