"""The HTTP gateway: dialects of HTTP in, `GenerateRequest` out, and its events back again.

From the wire inwards: `server.py` (listening sockets) -> `connection.py` (one client's TCP
connection, HTTP/1.1 by Hypercorn) -> `exchange.py` (one request and its answer) -> `app.py`
(routes) -> an endpoint such as `chat.py`, which uses a pure dialect (`openai_request.py`,
`openai.py`) and the `Mesh`.

A dialect adds its own pair of pure files, an endpoint and its routes; nothing else changes.
"""
