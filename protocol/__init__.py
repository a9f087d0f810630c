"""The pure core: what nodes say, believe and decide.

Nothing here opens a socket, reads a clock, starts a thread, writes a file, logs, or rolls dice of
its own. Everything comes in as an event with the time beside it, and goes out as a list of
effects:

    effects = node.handle(event, now)     and     node.deadline

How a datagram travels through the room:

    DatagramReceived -> node.py        who is the sender? (authority.py resolves the short id)
                     -> envelope.py    fresh, from a proven address, sealed by that sender
                     -> codec.py       bytes -> message and riders, every length bounded
                     -> intake.py      riders: form, staleness, admission, signature
                     -> membership.py  lives: alive, left, accusations -> the view (members.py)
                        offers.py      what members offer
                        authority.py   who is a member at all
                     -> prober.py      the message itself: ping, ack, and their indirect kin
                     -> outbox.py      answers: message + rumours (dissemination.py), sealed
                     -> effects        the driver carries them out, in order

Files are named by the noun that they are the only place for. `README.md` beside this file is the
normative specification of wire and state.
"""
