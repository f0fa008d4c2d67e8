"""The HTTP/1.1 engine: framing of our own over llhttp's parser, blocking sockets and asyncio.

::

    framing.py   sans-I/O: request heads to bytes, bytes to one response
    blocking.py  a connection on a blocking socket, and its pool
    asyncio.py   a connection as an asyncio.Protocol, and its pool
"""
